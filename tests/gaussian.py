"""Gaussian data, of which the best denoiser and every DDIM path are known in closed form."""

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config

from action_ddim import ActionDDIMPipeline, ExactDDIMScheduler

SEQ_LEN = 8
SIZE = SEQ_LEN * 3


def make_scheduler(prediction_type: str = "sample", **changes) -> ExactDDIMScheduler:
    settings = {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing", "clip_sample": False}
    return ExactDDIMScheduler(**settings | changes, prediction_type=prediction_type)


def data_covariance() -> tuple[np.ndarray, np.ndarray]:
    """Variances `(D,)` and the directions that have them, `(D, D)`, in columns."""
    directions = np.linalg.qr(np.random.default_rng(0).standard_normal((SIZE, SIZE)))[0]
    return np.geomspace(1e-3, 0.2, SIZE), directions


def output_of(clean: torch.Tensor, sample: torch.Tensor, alpha: float | torch.Tensor, prediction_type: str) -> torch.Tensor:
    """Return what a network of a prediction type says at a noisy sample whose clean one it takes to be `clean`."""
    noise = (sample - alpha**0.5 * clean) / (1 - alpha) ** 0.5
    velocity = alpha**0.5 * noise - (1 - alpha) ** 0.5 * clean
    return {"sample": clean, "epsilon": noise, "v_prediction": velocity}[prediction_type]


def draw_actions(count: int) -> np.ndarray:
    """Draw actions `(N, L, 3)` in [0, 1]."""
    variances, directions = data_covariance()
    clean = np.random.default_rng(1).standard_normal((count, SIZE)) * variances**0.5 @ directions.T
    return (clean.reshape(count, SEQ_LEN, 3).clip(-1, 1) + 1) / 2


class PosteriorMean(ModelMixin, ConfigMixin):
    """The exact posterior mean of Gaussian data with mean 0, in float64, in any prediction type."""

    @register_to_config
    def __init__(self, prediction_type: str = "sample", seq_len: int = SEQ_LEN, in_channels: int = 3):
        super().__init__()
        self.alphas = make_scheduler().alphas_cumprod.double()
        variances, directions = data_covariance()
        self.variances = torch.nn.Parameter(torch.from_numpy(variances), requires_grad=False)
        self.directions = torch.from_numpy(directions)

    def forward(self, sample, timestep, return_dict=True):
        alpha = self.alphas[int(timestep)]
        shares = alpha.sqrt() * self.variances / (alpha * self.variances + 1 - alpha)
        clean = (sample.flatten(1) @ self.directions * shares @ self.directions.T).view_as(sample)
        return (output_of(clean, sample, alpha, self.config.prediction_type),)


def make_pipeline(prediction_type: str = "sample", **changes) -> ActionDDIMPipeline:
    pipeline = ActionDDIMPipeline(PosteriorMean(prediction_type), make_scheduler(prediction_type, **changes))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
