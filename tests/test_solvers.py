"""Other schedulers of diffusers in the pipeline, swapped as diffusers users swap them."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

from action_ddim import ActionDDIMPipeline, ExactDDIMScheduler
from tests import gaussian
from tests.test_pipeline import GOAL, SEQ_LEN, oracle_pipeline, seeded

__all__ = ["oracle_pipeline"]  # a fixture
SOLVERS = (DPMSolverMultistepScheduler, DDPMScheduler, UniPCMultistepScheduler, DDIMScheduler)
every_solver = pytest.mark.parametrize("solver", SOLVERS)


@every_solver
@pytest.mark.parametrize("num_inference_steps", [1, 2, 10, 20])
def test_every_solver_ends_at_what_the_denoiser_says(oracle_pipeline, solver, num_inference_steps):
    oracle_pipeline.scheduler = solver.from_config(oracle_pipeline.scheduler.config)
    actions = oracle_pipeline(2, num_inference_steps, generator=seeded(), output_type="pt").actions
    torch.testing.assert_close(actions, torch.full((2, SEQ_LEN, 3), (GOAL + 1) / 2), rtol=0, atol=1e-5)


@every_solver
@pytest.mark.parametrize("strength", [0.05, 0.5, 1.0])
def test_every_solver_reconstructs(oracle_pipeline, solver, strength):
    oracle_pipeline.scheduler = solver.from_config(oracle_pipeline.scheduler.config)
    actions = np.zeros((2, SEQ_LEN, 3), np.float32)
    cleaned = oracle_pipeline.reconstruct(actions, strength, 10, generator=seeded(), output_type="pt").actions
    torch.testing.assert_close(cleaned, torch.full((2, SEQ_LEN, 3), (GOAL + 1) / 2), rtol=0, atol=1e-5)


def test_reconstruction_by_a_solver_that_draws_is_repeatable():
    pipeline = gaussian.make_pipeline()
    pipeline.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    actions = np.full((2, pipeline.denoiser.config.seq_len, 3), 0.5, np.float32)
    first, again = (pipeline.reconstruct(actions, 0.5, 10, generator=seeded(), output_type="pt").actions for _ in range(2))
    assert torch.equal(first, again)


class Watched(gaussian.PosteriorMean):
    """Remembers what it was asked."""

    def forward(self, sample, timestep, return_dict=True):
        self.__dict__.setdefault("asked", []).append((sample, int(timestep)))
        return super().forward(sample, timestep, return_dict)


@pytest.mark.parametrize("strength", [0.2, 0.5])
@pytest.mark.parametrize("spacing", [{"use_karras_sigmas": True}, {"timestep_spacing": "leading"}, {}], ids=str)
@every_solver
def test_reconstruction_starts_at_the_strength_that_is_asked_for_whatever_the_spacing(solver, spacing, strength):
    pipeline = ActionDDIMPipeline(Watched(), solver.from_config(gaussian.make_scheduler().config, **spacing))
    pipeline.set_progress_bar_config(disable=True)
    actions = gaussian.draw_actions(3)
    pipeline.reconstruct(actions, strength, 10, generator=seeded())
    sample, timestep = pipeline.denoiser.asked[0]
    alpha_bar = pipeline.scheduler.alphas_cumprod[round(1000 * strength) - 1].double()
    noise = torch.randn(sample.shape, dtype=torch.float64, generator=seeded())
    expected = alpha_bar.sqrt() * torch.from_numpy(2 * actions - 1) + (1 - alpha_bar).sqrt() * noise
    torch.testing.assert_close(sample, expected, rtol=0, atol=1e-5)
    assert timestep == pytest.approx(1000 * strength - 1, abs=1)  # solvers round what sigmas say


@pytest.mark.parametrize("solver", [DPMSolverMultistepScheduler, UniPCMultistepScheduler])
def test_deterministic_solvers_walk_as_in_a_loop_of_ones_own_and_end_nearer_than_ddim(solver):
    """All follow one differential equation, whose end a thousand DDIM steps come to; the last step, which forgets the noise
    at the lowest timestep, is the same in all and leaves each an error."""
    pipeline = gaussian.make_pipeline()
    latents = torch.randn(4, gaussian.SEQ_LEN, 3, dtype=torch.float64, generator=seeded())
    arguments = {"latents": latents, "output_type": "pt"}
    end = pipeline(**arguments, num_inference_steps=1000).actions
    by_ddim = pipeline(**arguments, num_inference_steps=20).actions
    pipeline.scheduler = solver.from_config(pipeline.scheduler.config)
    by_solver = pipeline(**arguments, num_inference_steps=20).actions
    own, sample = solver.from_config(pipeline.scheduler.config), latents
    own.set_timesteps(20)
    for timestep in own.timesteps:
        output = pipeline.denoiser(own.scale_model_input(sample, timestep), timestep)[0]
        sample = own.step(output, timestep, sample).prev_sample
    assert torch.equal(by_solver, ((sample + 1) / 2).clip(0, 1))
    assert (by_solver - end).square().mean() < (by_ddim - end).square().mean()
    pipeline.scheduler = ExactDDIMScheduler.from_config(pipeline.scheduler.config)
    assert torch.equal(pipeline(**arguments, num_inference_steps=20).actions, by_ddim)


def test_eta_for_a_solver_that_has_none_is_refused(oracle_pipeline):
    oracle_pipeline.scheduler = DPMSolverMultistepScheduler.from_config(oracle_pipeline.scheduler.config)
    with pytest.raises(ValueError, match="DPMSolverMultistepScheduler takes no eta"):
        oracle_pipeline(1, eta=0.5)
