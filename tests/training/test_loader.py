"""The order of an epoch."""

import itertools

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

from action_ddim import TrainConfig
from action_ddim.data.dataset import ActionDataset
from action_ddim.training import loader
from action_ddim.training.loader import EpochSampler, make_loader
from augmentation.transforms import TRANSFORMS


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


def augmented(data, batch_size=4, processes=1, seed=0, augment=TRANSFORMS, epochs=(1, 2)):
    """Return the batches of each epoch, those of all processes one after another, as Accelerate deals them."""
    config = TrainConfig(
        data_dir=str(data / "train"), val_data_dir=str(data / "val"), batch_size=batch_size, seed=seed, augment=augment
    )
    loaders = [
        prepare_data_loader(
            make_loader(ActionDataset(config.data_dir), config, torch.device("cpu")),
            num_processes=processes,
            process_index=process,
            put_on_device=False,
        )
        for process in range(processes)
    ]
    found = []
    for epoch in epochs:
        for dealt in loaders:
            dealt.set_epoch(epoch)
        found.append(torch.cat([torch.cat(batches) for batches in zip(*loaders, strict=True)]))
    return found


def test_augmentation_is_a_function_of_seed_epoch_and_sequence(data):
    """Whatever batches and processes: 12 sequences in batches of 4, of 3, and of 2 on each of two processes."""
    first, second = augmented(data)
    for other in (augmented(data, 3), augmented(data, 2, processes=2), augmented(data, 6, processes=2)):
        assert torch.equal(other[0], first)
        assert torch.equal(other[1], second)
    assert torch.equal(augmented(data, epochs=(2,))[0], second)
    plain = ActionDataset(data / "train").read(order(0, 1, 12))
    assert not torch.equal(first, plain)
    assert torch.equal(augmented(data, augment=("none",))[0], plain)
    # Of one sequence, each epoch and each seed another.
    both = [actions[order(0, epoch, 12).index(5)] for epoch, actions in zip((1, 2), (first, second), strict=True)]
    assert not torch.equal(*both)
    assert not torch.equal(augmented(data, seed=1)[0][order(1, 1, 12).index(5)], both[0])


def test_further_transform_leaves_the_choices_of_the_others(data):
    plain = ActionDataset(data / "train").read(order(0, 1, 12))
    flipped, both = (augmented(data, augment=names)[0] for names in (("flip_x",), ("flip_x", "flip_y")))
    assert torch.equal(both[..., 0], flipped[..., 0])
    mirrored = (flipped[..., 0] != plain[..., 0]).any(dim=1)
    assert 0 < mirrored.sum() < 12
