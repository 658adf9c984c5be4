"""A denoiser whose answers have a closed form: the exact posterior mean where every entry of the data is one Gaussian."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config

from action_ddim import ActionDDIMPipeline, ExactDDIMScheduler

SEQ_LEN = 6
MEAN, VARIANCE = 0.2, 0.3  # in model space


class GaussianDenoiser(ModelMixin, ConfigMixin):
    """Answers E[clean | sample] as the scheduler's prediction type; remembers what it was shown."""

    @register_to_config
    def __init__(self, prediction_type: str = "sample", seq_len: int = SEQ_LEN, mask_conditioning: bool = True):
        super().__init__()
        self.register_to_config(in_channels=3)
        self.weight = torch.nn.Parameter(torch.zeros(1))  # says on which device and of which type it is
        self.alphas = ExactDDIMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod
        self.shown: list[tuple] = []

    def forward(self, sample, timestep, known_mask=None, return_dict=True):
        self.shown.append((sample.detach().clone(), known_mask))
        alpha = self.alphas[int(timestep)].item()
        clean = posterior_mean(sample, alpha)
        noise = (sample - alpha**0.5 * clean) / (1 - alpha) ** 0.5
        velocity = alpha**0.5 * noise - (1 - alpha) ** 0.5 * clean
        return ({"sample": clean, "epsilon": noise, "v_prediction": velocity}[self.config.prediction_type],)


def posterior_gain(alpha):
    return alpha**0.5 * VARIANCE / (alpha * VARIANCE + 1 - alpha)


def posterior_mean(sample, alpha):
    return MEAN + posterior_gain(alpha) * (sample - alpha**0.5 * MEAN)


def gaussian_pipeline(prediction_type: str = "sample", **config) -> ActionDDIMPipeline:
    scheduler = ExactDDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type=prediction_type,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    pipeline = ActionDDIMPipeline(GaussianDenoiser(prediction_type, **config), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
