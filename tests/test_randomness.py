"""Random streams: a pure function of their key."""

import itertools

import pytest
import torch

from action_ddim.randomness import Stream, seeded_generator


def draw(*key):
    return torch.rand(4, generator=seeded_generator(*key))


def test_same_key_gives_the_same_stream_and_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    assert torch.equal(draw(Stream.SAMPLES, 7, 1), draw(Stream.SAMPLES, 7, 1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "keys",
    [
        [(stream, 0, 0) for stream in Stream],
        [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0)],
        [(5,), (5, 0), (5, 0, 0)],
        [(0, 1), (1 << 32,)],
    ],
    ids=["purpose", "order", "trailing zeros", "more than 32 bits"],
)
def test_different_keys_give_different_streams(keys):
    for one, other in itertools.combinations(keys, 2):
        assert not torch.equal(draw(*one), draw(*other)), (one, other)
