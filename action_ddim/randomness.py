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


def seeded_generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator for a key of non-negative integers; keys that differ give independent streams."""
    # SeedSequence splits large numbers and pads with zeros; the length and whole words keep keys apart.
    words = np.array([len(key), *key], dtype=np.uint64).view(np.uint32)
    seed = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(seed)


def draw_noise(shape: tuple[int, int, int], generator: torch.Generator) -> torch.Tensor:
    """Draw standard normal noise of the shape `(N, L, 3)` on the generator's device."""
    return torch.randn(shape, generator=generator, device=generator.device)
