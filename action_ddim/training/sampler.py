"""`EpochSampler`: in which order an epoch goes through the data."""

import itertools
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from action_ddim.randomness import Stream, seeded_generator

LISTED = 1 << 16  # places that are Python integers at a time


class EpochSampler(Sampler[int]):
    """Lists the places 0 to N - 1 in random order, a function of (seed, epoch) alone.

    The order is uniform over all N! orders, so it mixes the files of a data set too. It takes 4 bytes a sequence, where
    torch's `RandomSampler` lists Python integers at about 36; the sampler of Accelerate draws from seed + epoch, so
    that its second epoch of one seed is the first of the next.

    Args:
        num_sequences: N.
        seed: Of the order.

    `set_epoch`, which Accelerate's loaders forward, chooses the epoch.
    """

    def __init__(self, num_sequences: int, seed: int):
        self.num_sequences = num_sequences
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_sequences

    def __iter__(self) -> Iterator[int]:
        generator = seeded_generator(Stream.DATA_ORDER, self.seed, self.epoch)
        dtype = torch.int32 if self.num_sequences < 2**31 else torch.int64
        order = torch.randperm(self.num_sequences, generator=generator, dtype=dtype)
        return itertools.chain.from_iterable(places.tolist() for places in order.split(LISTED))
