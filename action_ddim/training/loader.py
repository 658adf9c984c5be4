"""From folders to batches: data opened, checked by one process for all, loaded where it fits, and dealt to the processes."""

import hashlib
import itertools
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.utils.data import DataLoader, Dataset, Sampler

from action_ddim.data.dataset import CHUNK_BYTES, ActionDataset, open_for_model
from action_ddim.data.hub_dataset import fetch_dataset
from action_ddim.errors import RunError, RunStopped, UserError
from action_ddim.randomness import Stream, seed_of, seeded_generator, uniform_at
from action_ddim.training.config import NO_TRANSFORMS, TrainConfig
from action_ddim.training.interruption import REASONS, Interruption, exit_code
from augmentation.transforms import DRAWS, transform

SIGN_OF_LIFE_S = 10  # between words from the checking process; the others give up after 10 minutes without one
COMPARED_SEQUENCES, COMPARED_BYTES = 8192, 24 << 20  # of each data set, at most: within a second also from a disk
LISTED = 1 << 16  # indices that are Python integers at a time
DEVICE_SHARE = 0.5  # of the device's free memory that data may take; the rest is for the model and its activations


def open_data(config: TrainConfig) -> tuple[ActionDataset, ActionDataset]:
    """Open the training and the validation data; their headers are read, their values not yet."""
    train_source, val_source = find_data(config)
    if config.init_from is not None and config.seq_len is not None:
        model = f"--init_from {config.init_from}"
        train_data = open_for_model(*train_source, config.seq_len, model)
        return train_data, open_for_model(*val_source, config.seq_len, model)
    train_data, val_data = (ActionDataset(folder, config.seq_len, flag=flag) for flag, folder in (train_source, val_source))
    if train_data.seq_len != val_data.seq_len:
        raise UserError(
            f"{' '.join(train_source)} holds sequences of {train_data.seq_len} steps,"
            f" {' '.join(val_source)} of {val_data.seq_len}; give folders of the same length"
        )
    return train_data, val_data


def find_data(config: TrainConfig) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return flag and folder of the training and of the validation data; those of `--dataset_name` are fetched first.

    Raises:
        UserError: they cannot be fetched, or have no split to validate on.
    """
    val_source = ("--val_data_dir", str(config.val_data_dir))
    if config.dataset_name is None:
        return ("--data_dir", str(config.data_dir)), val_source
    fetched, flag = fetch_dataset(config.dataset_name, config.dataset_config_name), f"--dataset_name {config.dataset_name}:"
    if config.val_data_dir is None:
        val_source = (flag, str(fetched / "val"))
        if not (fetched / "val").is_dir():
            raise UserError(f"{flag} it has no split that is called validation or test; give --val_data_dir")
    return (flag, str(fetched / "train")), val_source


def validate_once(accelerator: Accelerator, dataset: ActionDataset, interruption: Interruption) -> None:
    """Validate every value on the main process, while the others wait. MUST be called on every rank.

    Raises:
        UserError: as `ActionDataset.validate`, on every rank.
        RunError: the same, where a file can no longer be read.
        RunStopped: there is a reason to stop; files that were found valid need not be read again.
    """
    with closing(_validation_words(dataset, interruption)) as words:
        while True:
            word = [next(words) if accelerator.is_main_process else None]
            if accelerator.num_processes > 1:
                broadcast_object_list(word)
            if isinstance(word[0], Exception):
                raise word[0]
            if word[0] == "valid":
                return
            reason = interruption.reason(accelerator)
            if reason:
                what = f"the run stops while {dataset.folder} is checked ({REASONS[reason]}); nothing was trained"
                raise RunStopped(what, exit_code(reason))


def _validation_words(dataset: ActionDataset, interruption: Interruption) -> Generator[str | Exception]:
    """Validate, and yield a sign of life now and then, and on a wish to stop, at last "valid" or the error."""
    spoken = time.monotonic()
    try:
        for _ in dataset.validation():
            if interruption.wish or time.monotonic() - spoken > SIGN_OF_LIFE_S:
                yield "reading"
                spoken = time.monotonic()
    except (UserError, RunError) as error:
        yield error
    yield "valid"


def load_what_fits(dataset: ActionDataset, device: torch.device, budget_gb: float) -> None:
    """Load the data into the memory of the device, or else of the machine, where it fits; else it stays on disk.

    Args:
        budget_gb: At most so many GB (1e9 bytes) are loaded, by each process.
    """
    if dataset.nbytes > budget_gb * 1e9:
        return
    if device.type == "cuda" and dataset.nbytes <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
        dataset.load(device)
    else:
        dataset.load()


def warn_of_shared(train_data: ActionDataset, val_data: ActionDataset) -> None:
    """Say in a line where validation sequences are training sequences too, bit for bit.

    Of large data a random part is compared, at the same indices where both are equally long: a copy is always seen.
    """
    known, compared = set(_digests(train_data)), list(_digests(val_data))
    shared = sum(digest in known for digest in compared)
    if shared:
        print(
            f"{shared} of {len(compared)} validation sequences that were looked at (--val_data_dir {val_data.folder}) are"
            f" training sequences too (--data_dir {train_data.folder}): metrics will look better than they are",
            file=sys.stderr,
        )


def _digests(dataset: ActionDataset) -> Iterator[bytes]:
    """Yield a digest of each sequence, of a random part where they are many."""
    size = dataset.nbytes // len(dataset)
    count = min(COMPARED_SEQUENCES, 1 + COMPARED_BYTES // size)
    indices = np.arange(min(count, len(dataset)))
    if len(dataset) > count:
        indices = np.unique((np.random.default_rng(0).random(count) * len(dataset)).astype(np.int64))
    for part in np.array_split(indices, 1 + len(indices) * size // CHUNK_BYTES):
        for sequence in dataset.read(part).cpu().numpy():
            yield hashlib.blake2b(sequence.tobytes(), digest_size=16).digest()


class EpochSampler(Sampler[int]):
    """Lists the indices 0 to N - 1 in random order, a function of (seed, epoch) alone.

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
        return itertools.chain.from_iterable(indices.tolist() for indices in order.split(LISTED))


class AugmentedDataset(Dataset):
    """Fetches the batches of a data set, transformed anew in each epoch (`augmentation.transforms`).

    What becomes of a sequence is a function of (seed, epoch, index of the sequence), whatever batch and process it falls to.

    Args:
        names: Of the transforms.
        sampler: Has the seed, and knows the epoch.
    """

    def __init__(self, dataset: ActionDataset, names: tuple[str, ...], sampler: EpochSampler):
        self.dataset = dataset
        self.names = names
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def location(self) -> str:
        """Where the values lie, in words."""
        return self.dataset.location

    @property
    def info(self) -> dict:
        """What `dataset.json` says."""
        return self.dataset.info

    def __getitems__(self, indices: list[int]) -> torch.Tensor:
        """Return a whole batch `(B, L, 3)`."""
        actions = self.dataset.read(indices)
        seed = seed_of(Stream.AUGMENTATION, self.sampler.seed, self.sampler.epoch)
        draws = torch.from_numpy(uniform_at(seed, np.asarray(indices), DRAWS))
        if actions.device.type == "cuda":  # a copy from memory that is not pinned waits for the device
            draws = draws.pin_memory()
        return transform(actions, draws.to(actions.device, non_blocking=True), self.names)


def make_loader(dataset: ActionDataset, config: TrainConfig, device: torch.device) -> DataLoader:
    """Return whole batches `(B, L, 3)` in the order of `EpochSampler`; Accelerate deals them to the processes."""
    sampler = EpochSampler(len(dataset), config.seed)
    return DataLoader(
        dataset if config.augment == NO_TRANSFORMS else AugmentedDataset(dataset, config.augment, sampler),
        config.batch_size,
        sampler=sampler,
        collate_fn=_as_it_is,
        # Making an iterator draws a seed for workers: from here, so that the global stream is left alone.
        generator=torch.Generator(),
        pin_memory=device.type == "cuda" and not dataset.on_device,
    )


def _as_it_is(batch: Any) -> Any:
    """Collate a batch that is whole already: `ActionDataset` fetches it in one piece."""
    return batch
