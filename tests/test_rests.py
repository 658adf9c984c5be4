"""Rests: what a network says of which steps move, decoded exactly in every path that ends in actions."""

import json

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from action_ddim import ActionDDIMPipeline, ActionTransformer1DModel
from action_ddim.actions import PRESS, moves
from action_ddim.inpainting import Known, build_mask
from action_ddim.rests import decode_rests
from augmentation.gestures import GestureConfig, generate
from tests.conftest import ROOT
from tests.gaussian import make_scheduler

SEQ_LEN = 20
REAL = ROOT.parent / "shared" / "real"


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def logits_of(moving) -> torch.Tensor:
    return torch.where(torch.as_tensor(moving), 3.0, -3.0)


def decode(actions: np.ndarray, moving: np.ndarray, known: Known | None = None) -> np.ndarray:
    return decode_rests(torch.from_numpy(actions), logits_of(moving), known).numpy()


def decoded_by_hand(actions: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Run by run, in float64: rests at their mean, their corrections joined by straight lines over the pointer's way."""
    decoded = actions.astype(np.float64)
    for sequence, (places, moved) in enumerate(zip(decoded[..., :PRESS].copy(), moving, strict=True)):
        way = np.concatenate([[0], (np.linalg.norm(np.diff(places, axis=0), axis=1) + 1e-5).cumsum()])
        for axis in range(2):
            runs = np.split(np.arange(len(places)), 1 + np.flatnonzero(moved[:, axis]))
            rests = [(run, places[run, axis].mean()) for run in runs if len(run) > 1]
            if rests:
                at = np.concatenate([run for run, _ in rests])
                missed = np.concatenate([mean - places[run, axis] for run, mean in rests])
                decoded[sequence, :, axis] += np.interp(way, way[at], missed)
    return decoded.clip(0, 1)


def same_bits(first: np.ndarray, second: np.ndarray) -> bool:
    return np.array_equal(first.view(np.int32), second.view(np.int32))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_decoding_is_that_by_hand(share):
    rng = np.random.default_rng(0)
    actions, moving = rng.random((8, SEQ_LEN, 3), dtype=np.float32), rng.random((8, SEQ_LEN - 1, 2)) < share
    decoded = decode(actions, moving)
    np.testing.assert_allclose(decoded, decoded_by_hand(actions, moving), atol=1e-5)
    assert not np.diff(decoded[..., :PRESS], axis=1)[~moving].any()
    assert same_bits(decoded[..., PRESS], actions[..., PRESS])


def test_actions_that_never_rest_stay_as_they_are():
    actions = np.random.default_rng(0).random((4, SEQ_LEN, 3), dtype=np.float32)
    assert same_bits(decode(actions, np.ones((4, SEQ_LEN - 1, 2), dtype=bool)), actions)


def pixels(actions: np.ndarray) -> np.ndarray:
    """The places on a screen of 640 x 360."""
    actions = actions.copy()
    actions[..., :PRESS] = np.round(actions[..., :PRESS] * (640, 360)) / (640, 360)
    return actions


@pytest.mark.parametrize("kind", ["hold", "zero", "pixels", "sapimouse", "omniglot"])
def test_actions_with_their_own_rests_stay_as_they_are_and_come_back_from_a_wobble(kind):
    """Rests of one step, of a whole click, between jumps to 0, 0, between pixels, and those of people."""
    if kind in ("sapimouse", "omniglot"):
        parts = sorted((REAL / kind / "val").glob("*_actions.npy"))
        if not parts:
            pytest.skip(f"{REAL / kind} is missing")
        actions = np.load(parts[0]).reshape(-1, 250, 3)[:50]
    else:
        actions = next(generate(GestureConfig(num_sequences=50, idle="zero" if kind == "zero" else "hold")))
        actions = pixels(actions) if kind == "pixels" else actions
    moving = moves(actions)
    np.testing.assert_allclose(decode(actions, moving), actions, rtol=0, atol=5e-6)
    rng = np.random.default_rng(0)
    wobbling = (actions + 1e-4 * rng.standard_normal(actions.shape)).astype(np.float32).clip(0, 1)
    decoded = decode(wobbling, moving)
    assert not np.diff(decoded[..., :PRESS], axis=1)[~moving].any()
    before, after = (np.abs(found - actions)[..., :PRESS].mean() for found in (wobbling, decoded))
    assert after < before


def test_strokes_between_rests_are_stretched_without_a_kink():
    """A stroke whose ends are seen 0.01 too near: every step of it grows by the same share."""
    stroke = next(generate(GestureConfig(num_sequences=200, action_type="swipe")))
    moving = moves(stroke)
    seen = stroke.copy()
    start, end = seen[:, :1, :PRESS], seen[:, -1:, :PRESS]
    for rest, towards in ((start, end), (end, start)):  # the resting steps alone are off, by 1 % of the stroke
        resting = (stroke[..., :PRESS] == rest) & (np.abs(end - start) > 0.1)
        seen[..., :PRESS] -= np.where(resting, 0.01 * (towards - rest), 0)
    decoded = decode(seen.clip(0, 1), moving)
    bend = np.abs(np.diff(decoded[..., :PRESS], n=2, axis=1)).max()
    assert bend <= 1.05 * max(np.abs(np.diff(actions[..., :PRESS], n=2, axis=1)).max() for actions in (stroke, seen))


def known_of(values: dict[int, float]) -> Known:
    """Known x at some steps of one sequence."""
    actions, mask = torch.zeros(1, SEQ_LEN, 3), torch.zeros(1, SEQ_LEN, 3, dtype=torch.bool)
    for step, value in values.items():
        actions[0, step, 0], mask[0, step, 0] = value, True
    return Known(actions, mask)


def test_a_rest_takes_the_value_that_is_known_of_it():
    actions = np.random.default_rng(0).random((3, SEQ_LEN, 3), dtype=np.float32)
    decoded = decode(actions, np.zeros((3, SEQ_LEN - 1, 2), dtype=bool), known_of({4: 0.7}))
    assert (decoded[..., 0] == np.float32(0.7)).all()
    assert (decoded[..., 1] == decoded[:, :1, 1]).all()


def test_a_rest_of_which_different_values_are_known_is_none():
    actions = 0.4 + 0.2 * np.random.default_rng(0).random((3, SEQ_LEN, 3), dtype=np.float32)
    known = known_of({4: 0.2, 12: 0.7})
    decoded = decode(actions, np.zeros((3, SEQ_LEN - 1, 2), dtype=bool), known)
    assert (decoded[:, [4, 12], 0] == known.actions[0, [4, 12], 0].numpy()).all()
    assert np.diff(decoded[..., 0], axis=1).all()


def test_what_is_known_of_two_steps_says_whether_they_move():
    actions = np.random.default_rng(0).random((3, SEQ_LEN, 3), dtype=np.float32)
    known = known_of({4: 0.2, 5: 0.7, 6: 0.7})
    resting, moving = (decode(actions, np.full((3, SEQ_LEN - 1, 2), move), known)[..., 0] for move in (False, True))
    np.testing.assert_array_equal(resting, np.tile(np.repeat(np.float32([0.2, 0.7]), [5, 15]), (3, 1)))
    assert (moving[:, 4:7] == np.float32([0.2, 0.7, 0.7])).all()
    assert np.diff(moving[:, 6:], axis=1).all()


@pytest.fixture
def pipeline() -> ActionDDIMPipeline:
    """A network with a rest head whose weights are all random."""
    torch.manual_seed(0)
    config = {"d_model": 16, "num_layers": 1, "nhead": 2, "patch_size": 4, "seq_len": SEQ_LEN}
    denoiser = ActionTransformer1DModel(**config, rest_head=True)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    pipeline = ActionDDIMPipeline(denoiser.eval(), make_scheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def known_actions() -> np.ndarray:
    return np.random.default_rng(0).random((3, SEQ_LEN, 3), dtype=np.float32)


PREFIX = build_mask(SEQ_LEN, prefix=5)


def draw_with(scheduler):
    def draw(pipeline, **settings):
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
        return pipeline(3, generator=seeded(), **settings)

    return draw


PATHS = {
    "draw": lambda pipeline, **settings: pipeline(3, eta=1.0, generator=seeded(), **settings),
    "reconstruct": lambda pipeline, **settings: pipeline.reconstruct(known_actions(), generator=seeded(), **settings),
    "decode": lambda pipeline, **settings: pipeline(latents=pipeline.invert(known_actions(), 5).latents, **settings),
    "interpolate": lambda pipeline, **settings: pipeline.interpolate(*known_actions()[:2], 3, 5, **settings),
    "fill in": lambda pipeline, **settings: pipeline(known=known_actions(), mask=PREFIX, generator=seeded(), **settings),
    "guide": lambda pipeline, **settings: pipeline(3, cost=lambda actions: actions[:, -1, 0], generator=seeded(), **settings),
    "another solver": draw_with(DPMSolverMultistepScheduler),
}


@pytest.mark.parametrize("output_type", ["np", "pt"])
@pytest.mark.parametrize("path", PATHS)
def test_every_path_rests_where_the_network_says_so(pipeline, path, output_type):
    said = []
    pipeline.denoiser.register_forward_hook(lambda module, given, output: said.append(output[1]))
    actions = np.asarray(PATHS[path](pipeline, output_type=output_type).actions)
    moving = (said[-1] > 0).numpy()
    assert 0.1 < moving.mean() < 0.9
    if path == "fill in":
        assert same_bits(actions[:, :5], known_actions()[:, :5])
        moving[:, :4] = True
    assert not np.diff(actions[..., :PRESS], axis=1)[~moving].any()
    assert actions.dtype == np.float32
    assert ((actions >= 0) & (actions <= 1)).all()


def test_half_precision_rests_as_exactly(pipeline):
    pipeline.to(torch.bfloat16)
    said = []
    pipeline.denoiser.register_forward_hook(lambda module, given, output: said.append(output[1]))
    for settings in ({}, {"known": known_actions(), "mask": PREFIX}):
        actions = pipeline(3, generator=seeded(), **settings).actions[:, 5:]
        assert not np.diff(actions[..., :PRESS], axis=1)[~(said[-1][:, 5:] > 0).numpy()].any()


def test_a_pipeline_from_before_draws_as_before(pipeline, tmp_path):
    """Its config knows no rest head, and its weights hold none."""
    settings = {**pipeline.denoiser.config, "rest_head": False}
    bare = ActionTransformer1DModel(**{name: value for name, value in settings.items() if not name.startswith("_")})
    bare.load_state_dict({name: value for name, value in pipeline.denoiser.state_dict().items() if "moves" not in name})
    ActionDDIMPipeline(bare, pipeline.scheduler).save_pretrained(tmp_path)
    path = tmp_path / "denoiser" / "config.json"
    config = json.loads(path.read_text())
    del config["rest_head"]
    path.write_text(json.dumps(config))
    loaded = ActionDDIMPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert len(loaded.denoiser(torch.zeros(1, SEQ_LEN, 3), 0, return_dict=False)) == 1
    drawn, with_rests = (each(2, 5, generator=seeded(), output_type="pt").actions for each in (loaded, pipeline))
    sample = torch.randn(2, SEQ_LEN, 3, generator=seeded())
    pipeline.scheduler.set_timesteps(5)
    for timestep in pipeline.scheduler.timesteps:
        with torch.no_grad():
            sample = pipeline.scheduler.step(bare.eval()(sample, timestep).sample, timestep, sample).prev_sample
    torch.testing.assert_close(drawn, ((sample + 1) / 2).clamp(0, 1))
    assert not torch.equal(drawn, with_rests)
