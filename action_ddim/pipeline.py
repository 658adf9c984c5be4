"""`ActionDDIMPipeline`: sample actions, reconstruct, invert and fill in, with a trained denoiser."""

import inspect
import math
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, ModelMixin, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

from .actions import PRESS, from_model_space, threshold_press, to_model_space
from .denoising import LEAST_NOISE, bend_variance, estimate_noise, smooth
from .export import SelfContainedMixin
from .guidance import Cost, guide
from .inpainting import Known, check_known
from .inversion import invert_end, invert_step, slerp
from .pipeline_output import ActionDenoisingOutput, ActionInversionOutput, ActionPipelineOutput
from .prediction import output_for, predict_clean
from .rests import decode_rests

OUTPUT_TYPES = ("np", "pt")
MAX_OUTSIDE = 1.0  # screens; what noise or a sensor takes outside is not that far away
MAX_RESIDUAL = 0.05  # of an inversion; a solved step leaves 1e-6, or half precision a hundredth
Values = np.ndarray | torch.Tensor
Generators = torch.Generator | list[torch.Generator] | None


class ActionDDIMPipeline(SelfContainedMixin, DiffusionPipeline):
    """Draws, reconstructs, inverts and fills in actions with DDIM (arXiv 2010.02502).

    Args:
        denoiser: An `ActionTransformer1DModel`.
        scheduler: An `ExactDDIMScheduler` of the same `prediction_type` as the denoiser was trained with, or any diffusers
            scheduler of discrete timesteps made `from_config` of it.
    """

    model_cpu_offload_seq = "denoiser"

    def __init__(self, denoiser: ModelMixin, scheduler: SchedulerMixin):
        super().__init__()
        self.register_modules(denoiser=denoiser, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        num_sequences: int = 1,
        num_inference_steps: int = 10,
        eta: float = 0.0,
        generator: Generators = None,
        latents: torch.Tensor | None = None,
        known: Values | None = None,
        mask: Values | None = None,
        cost: Cost | None = None,
        guidance_scale: float = 1.0,
        output_type: str = "np",
        return_dict: bool = True,
    ) -> ActionPipelineOutput | tuple:
        """Draw new actions from noise; fill in what is not known of them, or guide them by a cost.

        Args:
            num_sequences: N; taken from the latents, or from several known actions, where these are given.
            num_inference_steps: DDIM steps, 1 to the number of training timesteps.
            eta: Share of fresh noise in each step: 0 is DDIM and deterministic, 1 is DDPM (equation 16).
            generator: Makes the draw repeatable; a list holds one generator a sequence.
            latents: The noise to start from, `(N, L, 3)`, instead of drawing it; `invert` finds that of given actions.
            known: Actions `(N, L, 3)` or `(L, 3)` in [0, 1]; what the mask leaves out is not looked at.
            mask: Boolean, of the shape of `known` or `(L, 3)`: entries that come back as they are, bit for bit; the rest is
                generated to fit them (see `inpainting.Known.complete`), with an eta of 1 more closely where much is known.
                `action_ddim.build_mask` makes masks from words.
            cost: Maps clean actions, a tensor `(N, L, 3)` in [0, 1] or, as the network predicts them, a little outside it, to a
                number a sequence that is to be small.
            guidance_scale: Weight of the cost (see `guidance.guide`); 0 is plain DDIM.
            output_type: `"np"` for an array with a press of 0 or 1, `"pt"` for a tensor with a soft press; the rests
                of both are exact, where the denoiser has a rest head.

        Raises:
            ValueError: an argument is out of its range, or the latents, known actions, mask or generators do not fit.
        """
        self._check(output_type=output_type, eta=eta)
        given = self._known(known, mask)
        if given is not None and num_sequences == 1:
            num_sequences = len(given.actions)
        if latents is None:
            if num_sequences < 1:
                raise ValueError(f"num_sequences is {num_sequences}; give at least 1")
            shape = (num_sequences, self.denoiser.config.seq_len, self.denoiser.config.in_channels)
            latents = self._draw_noise(shape, generator)
        else:
            latents = self._to_device(latents, "latents")
            self._check_generators(generator, len(latents))
        if given is not None and len(given.actions) not in (1, len(latents)):
            raise ValueError(f"{len(given.actions)} known actions were given for {len(latents)} sequences")
        self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        sample = latents * self.scheduler.init_noise_sigma
        cost = cost if guidance_scale else None
        denoised = self._denoise(sample, self.scheduler, eta, generator, given, cost, guidance_scale)
        return self._output(*denoised, output_type, return_dict, given)

    @torch.no_grad()
    def reconstruct(
        self,
        actions: Values,
        strength: float = 0.5,
        num_inference_steps: int = 10,
        generator: Generators = None,
        known: Values | None = None,
        mask: Values | None = None,
        cost: Cost | None = None,
        guidance_scale: float = 1.0,
        output_type: str = "np",
        return_dict: bool = True,
    ) -> ActionPipelineOutput | tuple:
        """Noise actions to a fraction of the schedule and denoise them with DDIM (SDEdit, arXiv 2108.01073).

        Args:
            actions: `(N, L, 3)` in [0, 1].
            strength: How far up the schedule to go, in (0, 1]; at 1 nothing of the actions is left.
            num_inference_steps: DDIM steps over the whole schedule; `strength` of them are taken, at least one.
            generator, known, mask, cost, guidance_scale, output_type: As in `__call__`.

        Raises:
            ValueError: an argument is out of its range, or the actions, known actions, mask or generators do not fit.
        """
        self._check(output_type=output_type)
        given, cost = self._known(known, mask), cost if guidance_scale else None
        if given is not None and len(given.actions) not in (1, len(actions)):
            raise ValueError(f"{len(given.actions)} known actions were given for {len(actions)} sequences")
        sample = to_model_space(self._recorded(actions))
        scheduler = self._scheduler_below(strength, num_inference_steps)
        noise = self._draw_noise(tuple(sample.shape), generator)
        noisy = scheduler.add_noise(sample, noise, scheduler.timesteps[:1].expand(len(sample)))
        denoised = self._denoise(noisy, scheduler, 0.0, generator, given, cost, guidance_scale)
        return self._output(*denoised, output_type, return_dict, given)

    @torch.no_grad()
    def denoise(
        self,
        actions: Values,
        noise_std: float | None = None,
        press_is_noisy: bool = False,
        num_inference_steps: int = 1,
        return_dict: bool = True,
    ) -> ActionDenoisingOutput | tuple:
        """Take white noise off recorded places: jitter of the hand, the device or the tracking.

        The recording is a noisy sample of the schedule as it is: it enters at the timestep of its noise (but see
        `denoising.LEAST_NOISE`), none is added, and DDIM walks down. Where the pointer moves in what the network takes for
        clean, and how fast, sets how closely the recording is followed there, and how far it is smoothed (`denoising.smooth`).

        Args:
            actions: `(N, L, 3)`; x and y may lie outside [0, 1] as far as noise takes them.
            noise_std: Standard deviation of the noise on x and y, in screens; by default `denoising.estimate_noise` of all
                the sequences together.
            press_is_noisy: Whether the press is to be denoised too, instead of kept as it is.
            num_inference_steps: DDIM steps on the way down.

        Raises:
            ValueError: an argument is out of its range, or the actions do not fit.
        """
        recording = self._recorded(actions, torch.promote_types(self.denoiser.dtype, torch.float32)).cpu()
        if noise_std is None:
            noise_std = estimate_noise(recording)
        if not 0 <= noise_std < math.inf:
            raise ValueError(f"noise_std is {noise_std}, not a number of screens from 0 up")
        denoised = recording.clone()
        if noise_std > 0:
            # Model space is twice as wide as the screen.
            scheduler = self._scheduler_at(max(2 * noise_std, LEAST_NOISE), num_inference_steps)
            noisy = scheduler.alphas_cumprod[-1].sqrt().cpu() * to_model_space(recording)
            sample, move_logits = self._denoise(self._to_device(noisy, "actions"), scheduler)
            # Smoothed on the CPU, step by step and in float64.
            predicted = from_model_space(sample.cpu().to(recording.dtype))
            variance = bend_variance(predicted[..., :PRESS], None if move_logits is None else move_logits.cpu())
            denoised[..., :PRESS] = smooth(recording[..., :PRESS], variance, noise_std**2).to(recording.dtype)
            if press_is_noisy:
                denoised[..., PRESS:] = predicted[..., PRESS:]
        denoised = threshold_press(denoised.clip(0, 1)).float().numpy()
        return ActionDenoisingOutput(denoised, noise_std) if return_dict else (denoised, noise_std)

    @torch.no_grad()
    def invert(
        self,
        actions: Values,
        num_inference_steps: int = 50,
        generator: Generators = None,
        noise: torch.Tensor | None = None,
        max_residual: float = MAX_RESIDUAL,
        return_dict: bool = True,
    ) -> ActionInversionOutput | tuple:
        """Find the latents whose deterministic DDIM path leads back to the actions; `pipeline(latents=...)` walks it.

        The end of a path forgets the noise of its samples, so that many paths end in the same actions; the noise there is
        drawn, as it would be on the way down, and the sample corrected until its path ends near the actions (see
        `inversion.invert_end`). That keeps every sample of the path what the network was trained on, and the latents standard
        normal. Each step above is solved for the sample whose `scheduler.step` gives the next one (see
        `inversion.solve_fixed_point`), so that decoding in the same number of steps returns the actions up to about what
        the network can say of them.

        Args:
            actions: `(N, L, 3)` in [0, 1].
            num_inference_steps: S; decode with the same number.
            generator: Makes the noise of the end repeatable; a list holds one generator a sequence.
            noise: That noise, `(N, L, 3)` or one for all, `(1, L, 3)`, instead of drawing it.
            max_residual: Of a step, root mean square in model space; where one cannot be solved that far, the path down does
                not lead back. Half precision does not come far below 0.01.

        Raises:
            ValueError: an argument does not fit, or the scheduler is not a DDIM scheduler.
            RuntimeError: a residual is larger than `max_residual`.
        """
        if not isinstance(self.scheduler, DDIMScheduler):
            raise ValueError(f"inversion needs a DDIM scheduler, not {type(self.scheduler).__name__}")
        exact = torch.promote_types(self.denoiser.dtype, torch.float32)
        clean = to_model_space(self._recorded(actions, exact))
        noise = self._draw_noise(tuple(clean.shape), generator) if noise is None else self._to_device(noise, "noise")
        if len(noise) not in (1, len(clean)):
            raise ValueError(f"noise was given for {len(noise)} of {len(clean)} sequences")
        self.scheduler.set_timesteps(num_inference_steps, device=clean.device)
        sample, above = invert_end(self.denoiser, self.scheduler, clean, noise.expand_as(clean).to(exact))
        worst = torch.zeros(len(clean), device=clean.device)
        for lower, timestep in self.progress_bar(list(pairwise(self.scheduler.timesteps[: above + 1].flip(0)))):
            sample, residual = invert_step(self.denoiser, self.scheduler, sample, lower, timestep)
            worst = torch.maximum(worst, residual)
        failed = int((~(worst <= max_residual)).sum())
        if failed and math.isfinite(max_residual):
            raise RuntimeError(
                f"{failed} of {len(clean)} sequences could not be inverted: a step misses by up to {worst.max():.2g} (root mean"
                f" square), more than max_residual, {max_residual:g}; use another num_inference_steps, or allow more"
            )
        return ActionInversionOutput(latents=sample, residual=worst) if return_dict else (sample, worst)

    def interpolate(
        self,
        first: Values,
        second: Values,
        num_interpolations: int = 9,
        num_inference_steps: int = 50,
        generator: torch.Generator | None = None,
        output_type: str = "np",
        return_dict: bool = True,
    ) -> ActionPipelineOutput | tuple:
        """Go from one action to another through their latents, spherically (arXiv 2010.02502, section 5.3).

        Args:
            first, second: `(L, 3)` in [0, 1].
            num_interpolations: N, evenly spaced from the first to the second, both included; at least 2.
            num_inference_steps: As in `invert`.
            generator: Sets the noise at the end of the inverted paths, the same for both.
            output_type: As in `__call__`.

        Raises:
            ValueError: as `invert`, or there are fewer than two interpolations.
        """
        if num_interpolations < 2:
            raise ValueError(f"num_interpolations is {num_interpolations}; give at least 2")
        ends = torch.stack([torch.as_tensor(first), torch.as_tensor(second)])
        shape = (1, self.denoiser.config.seq_len, self.denoiser.config.in_channels)
        noise = self._draw_noise(shape, generator)
        latents, _ = self.invert(ends, num_inference_steps, noise=noise, return_dict=False)
        fractions = torch.linspace(0, 1, num_interpolations, device=latents.device, dtype=latents.dtype)
        path = slerp(latents[0], latents[1], fractions)
        return self(latents=path, num_inference_steps=num_inference_steps, output_type=output_type, return_dict=return_dict)

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

    def _scheduler_below(self, strength: float, num_inference_steps: int) -> SchedulerMixin:
        """Return the scheduler cut at `strength` of the schedule, with its timesteps chosen."""
        timesteps = self.timesteps_below(strength, num_inference_steps)
        return self._cut_scheduler(timesteps[0] + 1, len(timesteps))

    def _scheduler_at(self, noise_std: float, num_inference_steps: int) -> SchedulerMixin:
        """Return the scheduler cut where noise has this deviation beside the signal, with its timesteps chosen."""
        alphas = self.scheduler.alphas_cumprod.cpu().double()
        top = min(int(((1 - alphas) / alphas < noise_std**2).sum()) + 1, len(alphas))
        if not 1 <= num_inference_steps <= top:
            raise ValueError(f"num_inference_steps is {num_inference_steps}, not in 1..{top}, the timesteps below the noise")
        return self._cut_scheduler(top, num_inference_steps)

    def _cut_scheduler(self, top: int, num_inference_steps: int) -> SchedulerMixin:
        """Return a scheduler of the first `top` timesteps: whatever its spacing (Karras sigmas, ...), it begins there."""
        cut = {
            "trained_betas": self.scheduler.betas[:top].tolist(),
            "num_train_timesteps": top,
            "rescale_betas_zero_snr": False,  # they are by now
            "timestep_spacing": "trailing",
        }
        scheduler = type(self.scheduler).from_config(self.scheduler.config, **cut)
        scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        return scheduler

    def _denoise(
        self,
        sample: torch.Tensor,
        scheduler: SchedulerMixin,
        eta: float = 0.0,
        generator: Generators = None,
        known: Known | None = None,
        cost: Cost | None = None,
        guidance_scale: float = 1.0,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Walk down the timesteps that the scheduler chose, from a noisy sample `(N, L, 3)`.

        Returns the clean sample, and what the network says at the last timestep of which steps move, if it does.
        """
        options, move_logits = self._step_options(scheduler, eta, generator), None
        # Noise levels are looked up at once: on a GPU, each look would wait for what is under way there.
        levels = scheduler.alphas_cumprod.cpu()[scheduler.timesteps.cpu().long()].tolist()
        for timestep, alpha_bar in self.progress_bar(list(zip(scheduler.timesteps, levels, strict=True))):
            model_input = scheduler.scale_model_input(sample, timestep)
            output, move_logits = self._predict(model_input, timestep, alpha_bar, known, cost, guidance_scale)
            sample = scheduler.step(output, timestep, sample, **options, return_dict=False)[0]
        return sample, move_logits

    def _predict(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        alpha_bar: float,
        known: Known | None,
        cost: Cost | None,
        guidance_scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the denoiser's output, moved to where the cost is smaller, and to what is known; and its logits if any."""
        denoise = partial(self.denoiser, timestep=timestep, return_dict=False)
        meaning = alpha_bar, self.scheduler.config.prediction_type
        said = denoise(sample) if cost is None else guide(denoise, sample, cost, guidance_scale, *meaning, known)
        output, *others = said
        if known is not None:
            output = output_for(known.complete(predict_clean(output, sample, *meaning)), sample, *meaning)
        return output, others[0] if others else None

    @staticmethod
    def _step_options(scheduler: SchedulerMixin, eta: float, generator: Generators) -> dict:
        """Return those of `eta` and `generator` that the scheduler's step takes."""
        parameters = inspect.signature(scheduler.step).parameters
        if eta and "eta" not in parameters:
            raise ValueError(f"{type(scheduler).__name__} takes no eta; leave it at 0")
        return {name: value for name, value in {"eta": eta, "generator": generator}.items() if name in parameters}

    def _check(self, output_type: str, eta: float = 0.0) -> None:
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type is {output_type!r}, not one of {', '.join(OUTPUT_TYPES)}")
        if not 0 <= eta <= 1:
            raise ValueError(f"eta is {eta}, not in [0, 1]")

    @staticmethod
    def _check_generators(generator: Generators, num_sequences: int) -> None:
        if isinstance(generator, list) and len(generator) != num_sequences:
            raise ValueError(f"{len(generator)} generators were given for {num_sequences} sequences")

    def _to_device(self, values: Values, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Check the shape `(N, L, 3)` and bring the values to the denoiser's device, and to its type by default."""
        values = torch.as_tensor(values)
        expected = (self.denoiser.config.seq_len, self.denoiser.config.in_channels)
        if values.ndim != 3 or tuple(values.shape[1:]) != expected or not len(values):
            raise ValueError(f"{name} have the shape {tuple(values.shape)}, not (N, {expected[0]}, {expected[1]})")
        if not torch.isfinite(values).all():
            raise ValueError(f"{name} hold NaN or infinity")
        return values.to(device=self._execution_device, dtype=dtype or self.denoiser.dtype)

    def _recorded(self, actions: Values, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Check actions that somebody recorded, and bring them to the denoiser's device."""
        recorded = self._to_device(actions, "actions", dtype)
        if (abs(recorded - 0.5) > 0.5 + MAX_OUTSIDE).any():
            least, most = recorded.min(), recorded.max()
            raise ValueError(
                f"actions go from {least:g} to {most:g}; give x and y in shares of the screen, 0 to 1, not in pixels"
            )
        return recorded

    def _known(self, known: Values | None, mask: Values | None) -> Known | None:
        """Check what is known, and bring it to the denoiser's device; None where nothing is."""
        if known is None and mask is None:
            return None
        if known is None or mask is None:
            raise ValueError("known and mask go together; give both, or neither")
        checked = check_known(known, mask)
        dtype = torch.promote_types(self.denoiser.dtype, torch.float32)  # a half-precision denoiser would cost them bits
        return Known(self._to_device(checked.actions, "known actions", dtype), checked.mask.to(self._execution_device))

    def _draw_noise(self, shape: tuple[int, ...], generator: Generators) -> torch.Tensor:
        self._check_generators(generator, shape[0])
        return randn_tensor(shape, generator=generator, device=self._execution_device, dtype=self.denoiser.dtype)

    def _output(
        self,
        sample: torch.Tensor,
        move_logits: torch.Tensor | None,
        output_type: str,
        return_dict: bool,
        known: Known | None = None,
    ) -> ActionPipelineOutput | tuple:
        decoded = self._decode(sample, move_logits, output_type, known)
        actions = decoded.float().cpu().numpy() if output_type == "np" else decoded
        return ActionPipelineOutput(actions=actions) if return_dict else (actions,)

    @staticmethod
    def _decode(sample: torch.Tensor, move_logits: torch.Tensor | None, output_type: str, known: Known | None) -> torch.Tensor:
        """Return clean samples as actions in [0, 1]: rests exact, the press of `"np"` 0 or 1, what is known as it was given."""
        actions = from_model_space(sample)
        if move_logits is not None:
            actions = decode_rests(actions, move_logits, known)
        if output_type == "np":
            actions = threshold_press(actions)
        return actions if known is None else known.into_actions(actions)
