"""Exact DDIM steps on top of diffusers' `DDIMScheduler`.

The stock class takes `t - T // S` for the timestep after t, whatever its list says, so for most numbers of steps S its
trajectories are not the paper's. Here every step goes from one timestep of the list to the next. Noising,
configuration and file format stay those of the stock class.
"""

from typing import NamedTuple

import numpy as np
import torch
from diffusers import DDIMScheduler, SchedulerMixin  # from_pretrained looks for the name SchedulerMixin in this module
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor

__all__ = ["ExactDDIMScheduler", "SchedulerMixin"]


class StepCoefficients(NamedTuple):
    """The numbers of one step, each a float or a tensor; `alpha` is alpha_t of arXiv 2010.02502, alpha_bar of DDPM."""

    sqrt_alpha: float | torch.Tensor
    sqrt_one_minus_alpha: float | torch.Tensor
    sqrt_alpha_prev: float | torch.Tensor
    direction: float | torch.Tensor  # sqrt(1 - alpha_(t-1) - sigma^2), which points to x_t
    sigma: float | torch.Tensor  # of equation 16


class ExactDDIMScheduler(DDIMScheduler):
    """`DDIMScheduler` with S distinct timesteps for every S in 1..T, and steps that go along exactly these.

    Loads from, and saves to, the same `scheduler_config.json`; takes the place of the stock class, and gives it up, by
    `from_config` as any diffusers scheduler does.
    """

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: list[int] | None = None,
    ) -> None:
        """Choose the timesteps, spaced as the config's `timestep_spacing` says, or a list of one's own.

        Args:
            num_inference_steps: S in 1..T.
            timesteps: Instead of S, strictly decreasing timesteps in [0, T).

        Raises:
            ValueError: neither or both are given, they are out of range, or the config has zero terminal SNR with
                epsilon-prediction, where the clean sample is 0/0.
        """
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError("set_timesteps takes either num_inference_steps or timesteps")
        if self.config.prediction_type == "epsilon" and self.alphas_cumprod[-1] == 0:
            raise ValueError("zero terminal SNR needs prediction_type 'sample' or 'v_prediction', not 'epsilon'")
        T = self.config.num_train_timesteps
        if num_inference_steps is not None:
            if not 1 <= num_inference_steps <= T:
                raise ValueError(f"num_inference_steps is {num_inference_steps}, not in 1..{T} (num_train_timesteps)")
            chosen = self._spaced_timesteps(num_inference_steps)
        else:
            chosen = np.asarray(timesteps, dtype=np.int64)
        if chosen.ndim != 1 or not len(chosen) or chosen[-1] < 0 or chosen[0] >= T or (np.diff(chosen) >= 0).any():
            raise ValueError(f"timesteps must decrease strictly within 0..{T - 1}, not {chosen.tolist()}")
        self.num_inference_steps = len(chosen)
        self.timesteps = torch.from_numpy(chosen).to(device)
        self._tabulate(chosen)

    def _spaced_timesteps(self, S: int) -> np.ndarray:
        """The spacings of table 2 of arXiv 2305.08891, `(S,)`, decreasing."""
        T, spacing = self.config.num_train_timesteps, self.config.timestep_spacing
        if spacing == "trailing":
            return np.round(T - np.arange(S) * (T / S)).astype(np.int64) - 1
        if spacing == "leading":
            return np.arange(S)[::-1] * (T // S) + self.config.steps_offset
        if spacing == "linspace":
            return np.linspace(0, T - 1, S).round()[::-1].astype(np.int64)
        raise ValueError(f"timestep_spacing is {spacing!r}, not 'trailing', 'leading' or 'linspace'")

    def _tabulate(self, timesteps: np.ndarray) -> None:
        """Make the coefficients of all steps once, in float64, from the float32 alphas that noising uses too."""
        alpha = self.alphas_cumprod.cpu().double()[timesteps]
        alpha_prev = torch.cat([alpha[1:], self.final_alpha_cumprod.double().reshape(1)])
        sigma = ((1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev)).clamp(min=0).sqrt()
        columns = (alpha.sqrt(), (1 - alpha).sqrt(), alpha_prev.sqrt(), 1 - alpha_prev, sigma)
        table = torch.stack(columns, dim=1)
        self._rows = dict(zip(timesteps.tolist(), table.tolist(), strict=True))
        # Timesteps on a GPU index a table there, so that no step waits for the GPU. Unlisted timesteps give NaN.
        self._device_table = None
        if self.timesteps.device.type != "cpu":
            dtype = torch.float32 if self.timesteps.device.type == "mps" else torch.float64  # MPS has no float64
            self._device_table = self._table_by_timestep().to(self.timesteps.device, dtype)

    def _table_by_timestep(self) -> torch.Tensor:
        """Return the numbers of all steps, `(T, 5)`, NaN for timesteps that are not listed."""
        table = torch.full((self.config.num_train_timesteps, 5), torch.nan, dtype=torch.float64)
        table[list(self._rows)] = torch.tensor(list(self._rows.values()), dtype=torch.float64)
        return table

    def _step_coefficients(self, timestep: int | torch.Tensor, eta: float, dtype: torch.dtype) -> StepCoefficients:
        if self.num_inference_steps is None:
            raise ValueError("call set_timesteps before step")
        if isinstance(timestep, torch.Tensor) and timestep.device.type != "cpu" and self._device_table is not None:
            return coefficients_in_table(self._device_table, timestep, eta, dtype)
        try:
            *others, one_minus_alpha_prev, sigma = self._rows[int(timestep)]
        except KeyError:
            raise ValueError(f"timestep {int(timestep)} is not one of those that set_timesteps chose") from None
        direction = max(one_minus_alpha_prev - (eta * sigma) ** 2, 0.0) ** 0.5
        sqrt_alpha, sqrt_one_minus_alpha, sqrt_alpha_prev = others
        return StepCoefficients(sqrt_alpha, sqrt_one_minus_alpha, sqrt_alpha_prev, direction, eta * sigma)

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple:
        """Go from `timestep` to the next one of the list: equation 12 of arXiv 2010.02502, sigma as in equation 16.

        Arguments and results are those of `DDIMScheduler.step`; `timestep` is one that `set_timesteps` chose.
        """
        c = self._step_coefficients(timestep, eta, sample.dtype)
        prediction_type = self.config.prediction_type
        if prediction_type == "sample":
            clean, noise = model_output, (sample - c.sqrt_alpha * model_output) / c.sqrt_one_minus_alpha
        elif prediction_type == "epsilon":
            clean, noise = (sample - c.sqrt_one_minus_alpha * model_output) / c.sqrt_alpha, model_output
        elif prediction_type == "v_prediction":
            clean = c.sqrt_alpha * sample - c.sqrt_one_minus_alpha * model_output
            noise = c.sqrt_alpha * model_output + c.sqrt_one_minus_alpha * sample
        else:
            raise ValueError(f"prediction_type is {prediction_type!r}, not 'sample', 'epsilon' or 'v_prediction'")
        if self.config.thresholding:
            clean = self._threshold_sample(clean)
        elif self.config.clip_sample:
            clean = clean.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        if use_clipped_model_output:
            noise = (sample - c.sqrt_alpha * clean) / c.sqrt_one_minus_alpha
        prev_sample = c.sqrt_alpha_prev * clean + c.direction * noise
        if eta > 0:
            if variance_noise is None:
                variance_noise = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)
            prev_sample = prev_sample + c.sigma * variance_noise
        if not return_dict:
            return prev_sample, clean
        return DDIMSchedulerOutput(prev_sample=prev_sample, pred_original_sample=clean)


def coefficients_in_table(table: torch.Tensor, timestep: torch.Tensor, eta: float, dtype: torch.dtype) -> StepCoefficients:
    """Look up the numbers of a step, or of several, where the table `(T, 5)` lies, without waiting for that device.

    They are rounded to the sample's type at the end: 1 - alpha_(t-1) - sigma^2 is small beside its parts, and rounded earlier
    it can come out below 0.
    """
    *others, one_minus_alpha_prev, sigma = table.index_select(0, timestep.reshape(-1)).unbind(dim=1)
    direction = (one_minus_alpha_prev - (eta * sigma) ** 2).clamp(min=0).sqrt()
    return StepCoefficients(*(value.to(dtype) for value in (*others, direction, eta * sigma)))
