"""The training objective: what a network's output is compared with, and how much each sequence counts."""

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler

from action_ddim.actions import from_model_space, moves

UNIFORM_SHARE = 0.3  # of the timesteps of `logit_normal`
MEAN_ERROR = 0.06  # of a trained network over the timesteps, mean squared in model space
PREDICTION_TYPES = ("sample", "epsilon", "v_prediction")


def draw_timesteps(
    num_sequences: int,
    num_train_timesteps: int,
    generator: torch.Generator,
    weighting_scheme: str = "none",
    logit_mean: float = 0.0,
) -> torch.Tensor:
    """Draw one timestep a sequence `(N,)` in [0, T), together spread evenly over their distribution.

    With `none` each is uniform. With `logit_normal` the logit of t / T is normal, of the mean `logit_mean` and deviation 1
    (arXiv 2403.03206, section 3.1), but for a share that is uniform: the timesteps where most is decided are learned most,
    and the ends, where paths begin and end and a normal logit all but never comes, are learned too.

    One draw in each of N strata of equal probability, in random order: the low-discrepancy sampler of VDM (arXiv
    2107.00630, appendix I.1), which lowers the variance of the gradient at no cost.
    """
    device = generator.device
    strata = torch.randperm(num_sequences, generator=generator, device=device)
    position = (strata + torch.rand(num_sequences, generator=generator, device=device)) / num_sequences
    if weighting_scheme == "logit_normal":
        normal = (position - UNIFORM_SHARE).clamp(min=0) / (1 - UNIFORM_SHARE)
        position = torch.where(
            position < UNIFORM_SHARE, position / UNIFORM_SHARE, (logit_mean + torch.special.ndtri(normal)).sigmoid()
        )  # the normal's 0 and 1 stay what they are
    return (position * num_train_timesteps).long().clamp(max=num_train_timesteps - 1)


def min_snr_weight(snr: torch.Tensor, prediction_type: str, snr_gamma: float) -> torch.Tensor:
    """Return the min-SNR-gamma weight of each signal-to-noise ratio (arXiv 2303.09556, section 3.4); finite at snr = 0."""
    if prediction_type == "sample":
        return snr.clamp(max=snr_gamma)
    if prediction_type == "epsilon":
        return (snr_gamma / snr).clamp(max=1.0)  # min(snr, gamma) / snr, whose limit at 0 is 1
    return snr.clamp(max=snr_gamma) / (snr + 1)


def balance_weight(snr: torch.Tensor, balance: float) -> torch.Tensor:
    """Return the weight of each signal-to-noise ratio that divides the error expected there, to the power of `balance`.

    What is left to err by falls a thousandfold from the noisiest timestep to the clearest, where an equal share of so small a
    loss would teach nothing. With a balance of 1 every timestep counts alike, as with the uncertainties that EDM2 learns (arXiv
    2312.02696, appendix B.2); here they are a fit to what a trained network that predicts clean actions errs by.
    """
    expected = 1 / (3 + 60 * snr) + 1e-4
    return (MEAN_ERROR / expected) ** balance


def diffusion_loss(
    denoiser: torch.nn.Module,
    scheduler: DDIMScheduler,
    sample: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    *,
    snr_gamma: float | None = None,
    loss_balance: float = 0.0,
    velocity_weight: float = 0.0,
    rest_weight: float = 0.0,
) -> torch.Tensor:
    """Return the loss of each sequence, `(N,)`, for given noise and timesteps.

    The squared error of what the scheduler's `prediction_type` asks for, averaged over steps and channels, plus
    `velocity_weight` times the squared error of the first differences of the clean actions that follow from it (the
    velocity loss of MDM, arXiv 2209.14916, equation 5), both times the min-SNR weight where `snr_gamma` is given. Where it is
    not, the first of them is balanced between timesteps if it is that of clean actions (`balance_weight`).
    With epsilon-prediction the velocity term is scaled by alpha_bar, or it would grow without bound with the noise.
    On top, `rest_weight` times the cross-entropy of which steps move (`actions.moves`), of a denoiser with a rest head.

    Args:
        sample: Clean actions in model space, `(N, L, 3)` in [-1, 1].
        noise: Standard normal, as `sample`.
        timesteps: `(N,)` in [0, T).
    """
    noisy = scheduler.add_noise(sample, noise, timesteps)
    output, *logits = (values.float() for values in denoiser(noisy, timesteps, return_dict=False))
    prediction_type = scheduler.config.prediction_type
    alpha_bar = scheduler.alphas_cumprod.to(sample.device)[timesteps].view(-1, 1, 1)
    if prediction_type == "sample":
        error = output - sample
    elif prediction_type == "epsilon":
        error = output - noise
    else:
        error = output - scheduler.get_velocity(sample, noise, timesteps)
    # With epsilon-prediction this is sqrt(alpha_bar) times the error of the clean actions.
    clean_error = error if prediction_type == "sample" else (1 - alpha_bar).sqrt() * error
    snr = (alpha_bar / (1 - alpha_bar)).flatten()
    loss = error.square().mean(dim=(1, 2))
    if snr_gamma is None and prediction_type == "sample":
        loss = loss * balance_weight(snr, loss_balance)
    if velocity_weight:
        loss = loss + velocity_weight * clean_error.diff(dim=1).square().mean(dim=(1, 2))
    if snr_gamma is not None:
        loss = loss * min_snr_weight(snr, prediction_type, snr_gamma)
    if rest_weight:
        moving = moves(from_model_space(sample)).to(loss.dtype)
        entropy = F.binary_cross_entropy_with_logits(logits[0], moving, reduction="none")
        loss = loss + rest_weight * entropy.mean(dim=(1, 2))
    return loss
