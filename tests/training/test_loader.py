"""The order of an epoch."""

import itertools

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from action_ddim.training import loader
from action_ddim.training.loader import EpochSampler


def order(seed, epoch, num_sequences=100):
    sampler = EpochSampler(num_sequences, seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_order_is_a_permutation_and_repeats(monkeypatch):
    monkeypatch.setattr(loader, "LISTED", 7)
    assert sorted(order(0, 1)) == list(range(100))
    assert order(0, 1) == order(0, 1)
    assert len(EpochSampler(100, 0)) == 100


def test_no_two_seeds_and_epochs_share_an_order():
    """Seed 0 in epoch 2 is not seed 1 in epoch 1, as it is where the order is drawn from their sum."""
    orders = [order(seed, epoch) for seed, epoch in itertools.product(range(6), range(6))]
    assert len({tuple(places) for places in orders}) == 36


def test_global_stream_is_neither_used_nor_moved():
    before = torch.get_rng_state()
    first = order(3, 4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert order(3, 4) == first


def test_order_is_uniform_and_mixes_the_files():
    """Over 4,000 epochs each place is as often at each position; a batch of 8 of 32 draws from 4 files of 8 evenly."""
    orders = np.array([order(0, epoch, 8) for epoch in range(4000)])
    counts = np.stack([np.bincount(orders[:, position], minlength=8) for position in range(8)])
    assert (np.abs(counts - 500) < 5 * np.sqrt(500 * 7 / 8)).all()
    first_batches = np.array([order(1, epoch, 32)[:8] for epoch in range(2000)]) // 8
    shares = np.bincount(first_batches.ravel(), minlength=4) / first_batches.size
    np.testing.assert_allclose(shares, 0.25, atol=0.02)
    in_one_file = (first_batches == first_batches[:, :1]).all(axis=1)
    assert in_one_file.mean() < 0.01


def test_prepared_loader_forwards_the_epoch_and_skips_batches():
    accelerator = Accelerator(cpu=True)
    loader = accelerator.prepare(DataLoader(torch.arange(10), 4, sampler=EpochSampler(10, 5)))
    for epoch in (1, 2, 7, 2):
        loader.set_epoch(epoch)
        batches = list(loader)
        assert torch.cat(batches).tolist() == order(5, epoch, 10)
        loader.set_epoch(epoch)
        rest = list(accelerator.skip_first_batches(loader, 1))
        assert [batch.tolist() for batch in rest] == [batch.tolist() for batch in batches[1:]]
