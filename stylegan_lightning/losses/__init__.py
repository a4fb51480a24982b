from stylegan_lightning.losses.adversarial import (
    Hinge,
    LeastSquares,
    Minimax,
    NonSaturating,
    Relativistic,
    Wasserstein,
)
from stylegan_lightning.losses.penalties import (
    R1,
    R2,
    GradientPenalty,
    PathLength,
    path_lengths,
    squared_gradient_norm,
)

__all__ = [
    "R1",
    "R2",
    "GradientPenalty",
    "Hinge",
    "LeastSquares",
    "Minimax",
    "NonSaturating",
    "PathLength",
    "Relativistic",
    "Wasserstein",
    "path_lengths",
    "squared_gradient_norm",
]
