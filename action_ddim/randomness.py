"""Explicit random streams: every draw is a pure function of a key such as (seed, rank, batch)."""

import enum

import numpy as np
import torch


class Stream(enum.IntEnum):
    """What a stream is for: draws for different purposes never share their numbers."""

    TRAINING = 0
    VALIDATION_LOSS = 1
    RECONSTRUCTION = 2
    SAMPLES = 3
    DATA_ORDER = 4
    AUGMENTATION = 5


def seed_of(*key: int) -> int:
    """Return 64 bits for a key of non-negative integers."""
    # SeedSequence splits large numbers and pads with zeros; the length and whole words keep keys apart.
    words = np.array([len(key), *key], dtype=np.uint64).view(np.uint32)
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


def seeded_generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator for a key of non-negative integers; keys that differ give independent streams."""
    return torch.Generator(device).manual_seed(seed_of(*key))


def uniform_at(seed: int, indices: np.ndarray, count: int) -> np.ndarray:
    """Return the `count` numbers of each index, uniform in [0, 1), float32 `(N, count)`, whatever the others are.

    They are those at `index * count` and after it of the stream of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014),
    which can be entered anywhere, for many indices in one step.

    Args:
        seed: 64 bits, as of `seed_of`.
        indices: Non-negative integers `(N,)`.
    """
    place = indices.astype(np.uint64)[:, None] * np.uint64(count) + np.arange(1, count + 1, dtype=np.uint64)
    bits = np.uint64(seed) + place * np.uint64(0x9E3779B97F4A7C15)  # all of it modulo 2^64
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def draw_noise(shape: tuple[int, int, int], generator: torch.Generator) -> torch.Tensor:
    """Draw standard normal noise of the shape `(N, L, 3)` on the generator's device."""
    return torch.randn(shape, generator=generator, device=generator.device)
