"""`ActionDDIMPipeline`: sample actions from noise, and reconstruct noisy ones, with a trained denoiser."""

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from .actions import from_model_space, threshold_press, to_model_space

OUTPUT_TYPES = ("np", "pt")
Generators = torch.Generator | list[torch.Generator] | None


@dataclass
class ActionPipelineOutput(BaseOutput):
    """Actions `(N, L, 3)` in [0, 1]: an array with a press of 0 or 1 (`"np"`), or a tensor with a soft press (`"pt"`)."""

    actions: np.ndarray | torch.Tensor


class ActionDDIMPipeline(DiffusionPipeline):
    """Draws and reconstructs actions with DDIM (arXiv 2010.02502).

    Args:
        denoiser: An `ActionTransformer1DModel`.
        scheduler: An `ExactDDIMScheduler` of the same `prediction_type` as the denoiser was trained with.
    """

    model_cpu_offload_seq = "denoiser"

    def __init__(self, denoiser: ModelMixin, scheduler: SchedulerMixin):
        super().__init__()
        self.register_modules(denoiser=denoiser, scheduler=scheduler)

    @torch.inference_mode()
    def __call__(
        self,
        num_sequences: int = 1,
        num_inference_steps: int = 10,
        eta: float = 0.0,
        generator: Generators = None,
        latents: torch.Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
    ) -> ActionPipelineOutput | tuple:
        """Draw new actions from noise.

        Args:
            num_sequences: N; taken from the latents where these are given.
            num_inference_steps: DDIM steps, 1 to the number of training timesteps.
            eta: Share of fresh noise in each step: 0 is DDIM and deterministic, 1 is DDPM (equation 16).
            generator: Makes the draw repeatable; a list holds one generator a sequence.
            latents: The noise to start from, `(N, L, 3)`, instead of drawing it.
            output_type: `"np"` for an array with a press of 0 or 1, `"pt"` for a tensor with a soft press.

        Raises:
            ValueError: an argument is out of its range, or the latents or generators do not fit.
        """
        self._check(output_type=output_type, eta=eta)
        if latents is None:
            if num_sequences < 1:
                raise ValueError(f"num_sequences is {num_sequences}; give at least 1")
            shape = (num_sequences, self.denoiser.config.seq_len, self.denoiser.config.in_channels)
            latents = self._draw_noise(shape, generator)
        else:
            latents = self._to_device(latents, "latents")
        self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        sample = self._denoise(latents * self.scheduler.init_noise_sigma, eta, generator)
        return self._output(sample, output_type, return_dict)

    @torch.inference_mode()
    def reconstruct(
        self,
        actions: np.ndarray | torch.Tensor,
        strength: float = 0.5,
        num_inference_steps: int = 10,
        generator: Generators = None,
        output_type: str = "np",
        return_dict: bool = True,
    ) -> ActionPipelineOutput | tuple:
        """Noise actions to a fraction of the schedule and denoise them with DDIM (SDEdit, arXiv 2108.01073).

        Args:
            actions: `(N, L, 3)` in [0, 1].
            strength: How far up the schedule to go, in (0, 1]; at 1 nothing of the actions is left.
            num_inference_steps: DDIM steps over the whole schedule; `strength` of them are taken, at least one.
            generator, output_type: As in `__call__`.

        Raises:
            ValueError: an argument is out of its range, or the actions or generators do not fit.
        """
        self._check(output_type=output_type)
        sample = to_model_space(self._to_device(actions, "actions"))
        self.scheduler.set_timesteps(timesteps=self.timesteps_below(strength, num_inference_steps), device=sample.device)
        noise = self._draw_noise(tuple(sample.shape), generator)
        noisy = self.scheduler.add_noise(sample, noise, self.scheduler.timesteps[:1])
        return self._output(self._denoise(noisy, 0.0, generator), output_type, return_dict)

    def timesteps_below(self, strength: float, num_inference_steps: int) -> list[int]:
        """Return the timesteps from `strength` of the schedule down, spaced as `num_inference_steps` over the whole of it.

        The first one depends on the strength alone, so that reconstructions in different numbers of steps start from
        the same noise level.
        """
        num_train_timesteps = self.scheduler.config.num_train_timesteps
        if not 0 < strength <= 1:
            raise ValueError(f"strength is {strength}, not in (0, 1]")
        if not 1 <= num_inference_steps <= num_train_timesteps:
            raise ValueError(f"num_inference_steps is {num_inference_steps}, not in 1..{num_train_timesteps}")
        top = max(1, round(strength * num_train_timesteps))
        count = min(top, max(1, round(strength * num_inference_steps)))
        return [round(top * (count - i) / count) - 1 for i in range(count)]

    def _denoise(self, sample: torch.Tensor, eta: float, generator: Generators) -> torch.Tensor:
        """Walk down the scheduler's timesteps from a noisy sample `(N, L, 3)`."""
        for timestep in self.progress_bar(self.scheduler.timesteps):
            output = self.denoiser(sample, timestep, return_dict=False)[0]
            sample = self.scheduler.step(output, timestep, sample, eta=eta, generator=generator, return_dict=False)[0]
        return sample

    def _check(self, output_type: str, eta: float = 0.0) -> None:
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type is {output_type!r}, not one of {', '.join(OUTPUT_TYPES)}")
        if not 0 <= eta <= 1:
            raise ValueError(f"eta is {eta}, not in [0, 1]")

    def _to_device(self, values: np.ndarray | torch.Tensor, name: str) -> torch.Tensor:
        """Check the shape `(N, L, 3)` and bring the values to the denoiser's device and type."""
        values = torch.as_tensor(values)
        expected = (self.denoiser.config.seq_len, self.denoiser.config.in_channels)
        if values.ndim != 3 or tuple(values.shape[1:]) != expected or not len(values):
            raise ValueError(f"{name} have the shape {tuple(values.shape)}, not (N, {expected[0]}, {expected[1]})")
        if not torch.isfinite(values).all():
            raise ValueError(f"{name} hold NaN or infinity")
        return values.to(device=self._execution_device, dtype=self.denoiser.dtype)

    def _draw_noise(self, shape: tuple[int, ...], generator: Generators) -> torch.Tensor:
        if isinstance(generator, list) and len(generator) != shape[0]:
            raise ValueError(f"{len(generator)} generators were given for {shape[0]} sequences")
        return randn_tensor(shape, generator=generator, device=self._execution_device, dtype=self.denoiser.dtype)

    def _output(self, sample: torch.Tensor, output_type: str, return_dict: bool) -> ActionPipelineOutput | tuple:
        actions = from_model_space(sample)
        if output_type == "np":
            actions = threshold_press(actions.float().cpu().numpy())
        return ActionPipelineOutput(actions=actions) if return_dict else (actions,)
