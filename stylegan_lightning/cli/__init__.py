"""stylegan-lightning VERB: thin faces of the functions in `latent`."""
