"""Transforms against arrays worked by hand and closed forms, and what all of them keep."""

import itertools

import numpy as np
import pytest
import torch

from action_ddim.actions import find_invalid, from_model_space, moves, to_model_space
from action_ddim.randomness import seed_of, uniform_at
from augmentation.gestures import GestureConfig, generate
from augmentation.transforms import DRAWS, TRANSFORMS, transform

FLIP_X, FLIP_Y, SWAP, SIZE, RIGHT, DOWN, SLOW, WAVE, BACK = range(9)  # of the draws
EVERYTHING = {FLIP_X: 0, FLIP_Y: 0, SWAP: 0, BACK: 0, SIZE: 0.9, RIGHT: 0.2, DOWN: 0.8, SLOW: 0.9, WAVE: 0.2}


def actions(*rows):
    """One sequence of (x, y, press)."""
    return torch.tensor([rows], dtype=torch.float32)


def chosen(count=1, **draws):
    """Draws that leave everything as it is, but for those given by number."""
    values = torch.full((count, DRAWS), 0.5)
    for number, value in draws.items():
        values[:, int(number)] = value
    return values


def change(sequence, *names, **draws):
    return transform(sequence, chosen(len(sequence), **draws), names)


def drawn(count, seed=0):
    return torch.from_numpy(uniform_at(seed_of(seed), np.arange(count), DRAWS))


@pytest.fixture(scope="module")
def gestures():
    """300 sequences of every type: in pixels, of a hand, of a touch screen that has no place between touches."""
    every = ("mixed", "double_click", "drag", "circle", "two_stroke")
    kinds = ({"screen": (1920, 1080)}, {"human": True}, {"idle": "zero"})
    blocks = [next(generate(GestureConfig(100, every, sequence_length=60, max_delta_t_pct=0.5, **kind))) for kind in kinds]
    return torch.from_numpy(np.concatenate(blocks))


STROKE = actions((0.25, 0.5, 0), (0.25, 0.5, 1), (0.375, 0.75, 1), (0.5, 0.75, 0))


@pytest.mark.parametrize(
    ("name", "draws", "expected"),
    [
        ("flip_x", {"0": 0.4}, [(0.75, 0.5, 0), (0.75, 0.5, 1), (0.625, 0.75, 1), (0.5, 0.75, 0)]),
        ("flip_y", {"1": 0.4}, [(0.25, 0.5, 0), (0.25, 0.5, 1), (0.375, 0.25, 1), (0.5, 0.25, 0)]),
        ("swap_xy", {"2": 0.4}, [(0.5, 0.25, 0), (0.5, 0.25, 1), (0.75, 0.375, 1), (0.75, 0.5, 0)]),
        ("reverse", {"8": 0.4}, [(0.5, 0.75, 0), (0.375, 0.75, 1), (0.25, 0.5, 1), (0.25, 0.5, 0)]),
        # The box is 0.25 to 0.5 and 0.5 to 0.75, its centre 0.375, 0.625; the smallest factor 0.8.
        ("scale", {"3": 0}, [(0.275, 0.525, 0), (0.275, 0.525, 1), (0.375, 0.725, 1), (0.475, 0.725, 0)]),
        # 0.1 to the left, and half of the 0.1 down.
        ("shift", {"4": 0, "5": 0.75}, [(0.15, 0.55, 0), (0.15, 0.55, 1), (0.275, 0.8, 1), (0.4, 0.8, 0)]),
    ],
)
def test_transform_of_four_steps(name, draws, expected):
    torch.testing.assert_close(change(STROKE, name, **draws), actions(*expected), rtol=0, atol=1e-7)
    # 0.5 is none of it: neither mirrored, nor larger, nor elsewhere.
    torch.testing.assert_close(change(STROKE, name), STROKE, rtol=0, atol=1e-7)
    others = {str(number): 0.1 for number in range(DRAWS) if str(number) not in draws}
    torch.testing.assert_close(change(STROKE, name, **others), STROKE, rtol=0, atol=1e-7)  # draws of the other transforms


@pytest.mark.parametrize(("name", "number"), [("flip_x", 0), ("flip_y", 1), ("swap_xy", 2), ("reverse", 8)])
def test_twice_is_identity(gestures, name, number):
    once = change(gestures, name, **{str(number): 0})
    twice = change(once, name, **{str(number): 0})
    assert not torch.equal(once, gestures)
    torch.testing.assert_close(twice, gestures, rtol=0, atol=2**-25 if "flip" in name else 0)


def test_scale_and_shift_go_no_further_than_the_screen():
    """The room to the right is 0.05, and a box that ends at 1 does not grow."""
    corner = actions((0.9, 0.5, 1), (0.95, 0.5, 1))
    torch.testing.assert_close(change(corner, "shift", **{"4": 1 - 1e-7}), actions((0.95, 0.5, 1), (1, 0.5, 1)))
    edge = actions((0.5, 0.25, 1), (1, 0.75, 1))
    assert torch.equal(change(edge, "scale", **{"3": 0.99}), edge)
    boxes = torch.rand(20_000, 2, 3, generator=torch.Generator().manual_seed(0))
    boxes[..., 2] = 1
    for number, value in itertools.product("345", (0, 1 - 2**-24)):  # where rounding would go over the edge
        places = change(boxes, "scale", "shift", **{number: value})[..., :2]
        assert 0 <= places.min() < places.max() <= 1, (number, value)
    large = change(actions((0.4, 0.45, 1), (0.6, 0.55, 1)), "scale", **{"3": 1 - 1e-7})
    torch.testing.assert_close(large, actions((0.375, 0.4375, 1), (0.625, 0.5625, 1)))


def test_time_warp_of_a_ramp_is_its_closed_form():
    """Where x is the time s itself, it becomes w(s); with a and b at their bounds."""
    length, (slow, wave) = 101, (0.9, 0.2)
    s = np.linspace(0, 1, length)
    ramp = torch.from_numpy(np.stack([s, s**2, np.ones(length)], axis=-1)[None]).float()
    a, b = 0.4 * (slow - 0.5), 0.4 * (wave - 0.5)
    expected = s + a * np.sin(np.pi * s) / np.pi + b * np.sin(2 * np.pi * s) / (2 * np.pi)
    warped = change(ramp, "time_warp", **{"6": slow, "7": wave}).numpy()[0]
    np.testing.assert_allclose(warped[:, 0], expected, atol=1e-6)
    np.testing.assert_allclose(warped[:, 1], expected**2, atol=1e-4)  # linear between steps of 0.01
    assert np.ptp(np.diff(warped[:, 0])) > 0.3 * 0.01


def test_time_warp_takes_the_nearest_press_and_goes_over_no_edge_of_it():
    """A place that is held while pressed is held, though the pointer jumps in the step before and after."""
    press = torch.zeros(1, 50)
    press[:, 20:35] = 1
    jumping = torch.stack([0.2 + 0.6 * press, 0.5 + 0 * press, press], dim=-1)
    warped = change(jumping, "time_warp", **{"6": 0.95, "7": 0.1})
    assert set(warped[..., 0].unique().tolist()) == set(jumping[..., 0].unique().tolist())
    assert torch.equal(warped[..., 0] > 0.5, warped[..., 2] == 1)
    assert not torch.equal(warped, jumping)


def test_time_warp_that_would_skip_a_press_leaves_the_sequence():
    """At 1.4 steps a step, one press of a single step is stepped over, and one of two steps is not."""
    kept = 0
    for step in range(1, 40):
        press = torch.zeros(1, 200)
        press[:, step] = 1
        single = torch.stack([torch.linspace(0, 1, 200)[None], press * 0, press], dim=-1)
        kept += torch.equal(change(single, "time_warp", **{"6": 1, "7": 1}), single)
    assert 5 < kept < 20  # about 2 in 7


def runs(sequences):
    """Return the lengths of the runs of the press of each sequence."""
    found = []
    for press in sequences[..., 2].numpy():
        edges = np.flatnonzero(np.diff(press, prepend=0, append=0))
        found.append(edges[1::2] - edges[::2])
    return found


@pytest.mark.parametrize("names", [*((name,) for name in TRANSFORMS), TRANSFORMS], ids=lambda names: " ".join(names))
def test_range_rests_and_presses_are_kept(gestures, names):
    changed = transform(gestures, drawn(len(gestures)), names)
    assert changed.dtype == torch.float32
    assert changed.is_contiguous()
    assert not torch.equal(changed, gestures)
    assert find_invalid(changed.numpy().reshape(-1, 3)) is None
    for old, new in zip(runs(gestures), runs(changed), strict=True):
        assert len(old) == len(new)
        if "time_warp" not in names:
            assert sorted(old) == sorted(new)
        else:  # faster by 0.4 at most, or slower, and an edge falls to the nearest step
            new = new if abs(new - old).sum() <= abs(new[::-1] - old).sum() else new[::-1]
            assert (np.abs(new - old) <= 0.67 * old + 1.5).all()


@pytest.mark.parametrize("names", [*((name,) for name in TRANSFORMS), TRANSFORMS], ids=lambda names: " ".join(names))
def test_steps_that_rest_are_the_same_and_rest_to_the_last_bit(gestures, names):
    """What the rest head learns, asked in model space as the loss does, is where the values differ at all."""
    changed = transform(gestures, drawn(len(gestures)), names)
    exactly = changed[:, 1:, :2] != changed[:, :-1, :2]
    if names in (("swap_xy",), ("flip_x",), ("flip_y",), ("reverse",)):
        before = gestures[:, 1:, :2] != gestures[:, :-1, :2]
        assert abs(before.sum() - exactly.sum()) <= 2e-3 * before.sum()  # differences below the rounding of 1 - x
    if "time_warp" not in names and "reverse" not in names and "swap_xy" not in names:
        rested = gestures[:, 1:, :2] == gestures[:, :-1, :2]
        assert not (exactly & rested).any()
    learned = moves(from_model_space(to_model_space(changed)))
    assert not (learned & ~exactly).any()
    unclear = (learned != exactly).float().mean()
    assert unclear < 0.02  # minimum-jerk strokes begin with less than a millionth


@pytest.mark.parametrize("name", ["flip_x", "flip_y", "swap_xy", "reverse"])
def test_pixel_grid_is_kept_where_it_is_said(name):
    square = next(generate(GestureConfig(50, "two_stroke", sequence_length=60, screen=(1000, 1000), human=True)))
    changed = transform(torch.from_numpy(square), chosen(50, **dict.fromkeys("0128", 0)), (name,)).double()
    assert (changed[..., :2] * 1000 - (changed[..., :2] * 1000).round()).abs().max() < 1e-4


def test_no_place_stays_none():
    """Of a touch screen that says 0, 0 between touches; a mouse that is there once is mirrored with the rest."""
    touch = actions((0, 0, 0), (0.25, 0.5, 1), (0.25, 0.5, 1), (0, 0, 0), (0, 0, 0))
    changed = transform(touch, chosen(**{str(number): value for number, value in EVERYTHING.items()}), TRANSFORMS)
    assert torch.equal(changed[..., :2] == 0, (changed[..., 2:] == 0).expand(-1, -1, 2))
    assert (changed[..., 2] == 1).sum() >= 1
    mouse = actions((0, 0, 0), (0.25, 0.5, 1), (0.25, 0.5, 0))
    assert change(mouse, "flip_x", **{"0": 0})[0, 0].tolist() == [1, 0, 0]
    idle = torch.zeros(1, 6, 3)
    assert torch.equal(transform(idle, drawn(1), TRANSFORMS), idle)


def test_batch_is_its_sequences_one_by_one(gestures):
    draws = drawn(len(gestures))
    whole = transform(gestures, draws, TRANSFORMS)
    for index in range(0, len(gestures), 23):
        alone = transform(gestures[index : index + 1], draws[index : index + 1], TRANSFORMS)
        assert torch.equal(alone[0], whole[index])


def test_every_second_sequence_is_mirrored_and_sizes_are_log_uniform(gestures):
    many = gestures[:1].repeat(2000, 1, 1)
    draws = drawn(2000, seed=3)
    share = (transform(many, draws, ("flip_x",)) != many).any(dim=2).any(dim=1).float().mean().item()
    assert abs(share - 0.5) < 5 * np.sqrt(0.25 / 2000)
    line = actions((0.4, 0.5, 1), (0.6, 0.5, 1)).repeat(2000, 1, 1)
    sizes = transform(line, draws, ("scale",))
    factors = torch.log((sizes[:, 1, 0] - sizes[:, 0, 0]) / 0.2) / np.log(1.25)
    assert factors.abs().max() < 1 + 1e-4
    np.testing.assert_allclose(np.histogram(factors.numpy(), 4, (-1, 1))[0] / 2000, 0.25, atol=5 * np.sqrt(0.19 / 2000))
