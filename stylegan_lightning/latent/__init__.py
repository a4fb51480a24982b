"""What a trained generator is for: sampling, mixing, walking, directions, projection, editing, repair.

Functions of a `Generator` (from `stylegan_lightning.load`) and tensors; `stylegan_lightning.cli` is their command line.
"""
