from stylegan_lightning.losses.adversarial import NonSaturating
from stylegan_lightning.losses.penalties import R1, PathLength, path_lengths, squared_gradient_norm

__all__ = ["R1", "NonSaturating", "PathLength", "path_lengths", "squared_gradient_norm"]
