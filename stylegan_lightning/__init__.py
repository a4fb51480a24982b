"""Train and use StyleGAN-family models with PyTorch Lightning."""

__version__ = "0.1.0"
