"""Training and validation data that share no person, no session or no file."""

import hashlib
from collections import Counter

from action_ddim.errors import UserError
from action_ddim.recordings.trace import Recording

SPLITS_BY = ("user", "session", "file")


def group_of(recording: Recording, split_by: str) -> str:
    """Return what must lie on one side. Where nobody is named, a file is a person of its own."""
    if split_by == "user" and recording.user:
        return recording.user
    if split_by == "session" and recording.session:
        return f"{recording.user or recording.file}/{recording.session}"
    return recording.file


def held_out_groups(sizes: Counter[str], fraction: float, seed: int, split_by: str) -> set[str]:
    """Return the groups that are held out: by lot, as many as hold about this share of the windows, and at least one.

    Args:
        sizes: Windows of each group.

    Raises:
        UserError: there are fewer than two groups.
    """
    if not fraction:
        return set()
    if len(sizes) < 2:
        remedy = "record more, split by less with --split_by session or file, or give --val_fraction 0 and validation data"
        raise UserError(f"--split_by {split_by} finds one {split_by} to share out between train and val; {remedy}")
    order = sorted(sizes, key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).digest())
    wanted, count = fraction * sizes.total(), 0
    held_out: set[str] = set()
    for group in order[:-1]:
        # What comes nearer to the share than stopping here; the first is taken whatever its size.
        if held_out and abs(count + sizes[group] - wanted) > abs(count - wanted):
            continue
        held_out.add(group)
        count += sizes[group]
        if count >= wanted:
            break
    return held_out
