"""The optimizer of a run: Muon for the matrices inside the network, AdamW for all else, or AdamW for everything.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) takes the momentum of a matrix to the nearest
orthogonal one, so that all its directions are learned at the same rate. In the few thousand updates of a run here, it learns
what takes AdamW twice as many.
"""

from functools import partial

import torch
from pytorch_optimizer import Muon
from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_gram_newton_schulz
from torch import nn
from torch.distributed.tensor import DTensor

ADAM_BETAS = (0.9, 0.99)  # the usual 0.999 remembers a quarter of a 4,000-update run
ADAM_EPS = 1e-8
MUON_LR_FACTOR = 2.0  # of the learning rate; Muon's updates are scaled to the size of AdamW's


class SinglePrecisionMuon(Muon):
    """Muon that orthogonalizes in float32: most CPUs emulate bfloat16, and take ten times as long.

    Newton and Schulz' iteration runs on the Gram matrix, small where a matrix is not square: the same numbers, of fewer
    products.
    """

    @staticmethod
    def _orthogonalize(group: dict, updates: list[torch.Tensor]) -> list[torch.Tensor]:
        iterate = partial(
            zero_power_via_gram_newton_schulz, num_steps=group["ns_steps"], weights=group["ns_coeffs"], dtype=torch.float32
        )
        matrices = [update.flatten(1) for update in updates]
        if isinstance(matrices[0], DTensor):  # under FSDP, each with its shares
            return [iterate(matrix) for matrix in matrices]
        # All are of one shape, but for which side is the longer: together they take two thirds of the time.
        tall = [matrix.size(0) > matrix.size(1) for matrix in matrices]
        wide = torch.stack([matrix.mT if is_tall else matrix for matrix, is_tall in zip(matrices, tall, strict=True)])
        return [matrix.mT if is_tall else matrix for matrix, is_tall in zip(iterate(wide), tall, strict=True)]


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Say whether a parameter of the denoiser is one that Muon is for: neither a vector, nor of the last layer."""
    return parameter.ndim >= 2 and not name.startswith("patch_out")


def make_optimizer(model: nn.Module, name: str, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Make the optimizer of that name, `muon` or `adamw`, for a denoiser."""
    if name == "adamw":
        return torch.optim.AdamW(
            model.parameters(), lr=lr, betas=ADAM_BETAS, eps=ADAM_EPS, weight_decay=weight_decay, fused=True
        )
    hidden = [parameter for key, parameter in model.named_parameters() if is_hidden_matrix(key, parameter)]
    others = [parameter for key, parameter in model.named_parameters() if not is_hidden_matrix(key, parameter)]
    muon = {"use_muon": True, "use_adjusted_lr": True, "lr": MUON_LR_FACTOR * lr}
    adamw = {"use_muon": False, "lr": lr, "betas": ADAM_BETAS, "eps": ADAM_EPS}
    # AdamW's first: the learning rate of a run, as it is shown, is that of its first group.
    return SinglePrecisionMuon(
        [{"params": others, **adamw, "weight_decay": weight_decay}, {"params": hidden, **muon, "weight_decay": weight_decay}]
    )
