"""Compare runs: one page without a server, and a view in Weights & Biases."""
