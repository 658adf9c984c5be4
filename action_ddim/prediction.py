"""What a network answers, the clean sample, the noise or the velocity, and from each the others."""

import torch


def predict_clean(output: torch.Tensor, sample: torch.Tensor, alpha_bar: float, prediction_type: str) -> torch.Tensor:
    """Return the clean sample that follows from a network's output at a noisy `sample`."""
    if prediction_type == "sample":
        return output
    if prediction_type == "epsilon":
        return (sample - (1 - alpha_bar) ** 0.5 * output) / alpha_bar**0.5
    return alpha_bar**0.5 * sample - (1 - alpha_bar) ** 0.5 * output


def output_for(clean: torch.Tensor, sample: torch.Tensor, alpha_bar: float, prediction_type: str) -> torch.Tensor:
    """Return the network's output at a noisy `sample` that a clean sample follows from, the inverse of `predict_clean`."""
    if prediction_type == "sample":
        return clean
    noise = (sample - alpha_bar**0.5 * clean) / (1 - alpha_bar) ** 0.5
    return noise if prediction_type == "epsilon" else alpha_bar**0.5 * noise - (1 - alpha_bar) ** 0.5 * clean
