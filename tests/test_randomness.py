"""Random streams: a pure function of their key."""

import itertools

import numpy as np
import pytest
import torch

from action_ddim.randomness import Stream, seed_of, seeded_generator, uniform_at


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


def test_numbers_of_an_index_are_those_of_splitmix64():
    """The first of its stream from the seed 1234567, as published by Rosetta Code; 24 bits of them are kept."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    expected = [number >> 40 for number in known]
    assert (uniform_at(1234567, np.arange(5), 1).ravel() * 2**24).tolist() == expected
    assert (uniform_at(1234567, np.array([1, 0]), 2) * 2**24).tolist() == [expected[2:4], expected[:2]]


def test_numbers_of_an_index_are_uniform_and_independent_of_those_of_others():
    numbers = uniform_at(seed_of(Stream.AUGMENTATION, 0, 1), np.arange(20_000), 4).astype(np.float64)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, 100, (0, 1))[0]
    assert ((counts - 800) ** 2 / 800).sum() < 99 + 5 * np.sqrt(2 * 99)
    columns = np.concatenate([numbers[:-1], numbers[1:]], axis=1)  # of an index, and of the next
    assert np.abs(np.corrcoef(columns.T) - np.eye(8)).max() < 5 / np.sqrt(20_000)
