"""Command lines: a parser whose mistakes are one line, and the trainer's, built from the fields of `TrainConfig`."""

import argparse
import dataclasses
import re
from collections.abc import Iterable
from difflib import get_close_matches
from types import UnionType
from typing import Any, NoReturn, get_args, get_origin

from action_ddim import __version__
from action_ddim.config import TrainConfig
from action_ddim.errors import UserError

# What is called otherwise in diffusers, in transformers, or by habit; the first of ours that a parser knows is meant.
HABITS = {
    "eval": ("evaluate",),
    "learning_rate": ("lr",),
    "logger": ("report_to",),
    "num_samples": ("num",),
    "output": ("out", "save_dir"),
    "output_dir": ("save_dir", "out"),
    "resume": ("resume_from_checkpoint",),
    "train_batch_size": ("batch_size",),
    "train_data_dir": ("data_dir",),
}
ALIKE = 0.7  # of difflib's ratio, 0 to 1: `epochs` is .75 like `num_epochs`


def suggestion(word: str, known: Iterable[str]) -> str | None:
    """Return the question whether one of the known names is meant by a word, None where none is like it."""
    names = {name.strip("-"): name for name in known}
    plain = word.strip("-").replace("-", "_").lower()
    meant = [name for name in HABITS.get(plain, ()) if name in names] or get_close_matches(plain, names, 1, ALIKE)
    return f"did you mean {names[meant[0]]}?" if meant else None


class OneLineParser(argparse.ArgumentParser):
    """An `ArgumentParser` with `--version`, whose mistakes become a `UserError` instead of a usage text and an exit."""

    def __init__(self, **settings):
        super().__init__(**settings, allow_abbrev=False)
        self.add_argument("--version", action="version", version=f"action-ddim {__version__}")
        self._words: list[str] = []

    def parse_known_args(self, args=None, namespace=None):  # what parse_args calls; kept for its messages
        self._words = list(args or ())
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        # A flag that is misspelled is the cause, whatever argparse stumbled over first.
        flags = (word.split("=")[0] for word in self._words if re.match("--?[a-zA-Z]", word))
        unknown = next((flag for flag in flags if flag not in self._option_string_actions), None)
        if unknown:
            message = f"{unknown} is not a flag"
        remedy = (unknown and suggestion(unknown, self._option_string_actions)) or "--help lists the flags"
        raise UserError(f"{message}; {remedy}")


def parse_train_config(argv: list[str], prog: str | None = None) -> TrainConfig:
    """Parse the command line of the trainer.

    Raises:
        UserError: an argument is unknown, missing, blank or out of its range.
    """
    if any(not argument.strip() for argument in argv):
        raise UserError(
            "an argument is blank: after a line's last backslash the shell takes no comment and no space;"
            " put comments on lines of their own above the command"
        )
    parser = OneLineParser(prog=prog, description="Train a DDIM diffusion model of pointer and touch actions.")
    groups: dict[str, argparse._ArgumentGroup] = {}
    for item in dataclasses.fields(TrainConfig):
        name = item.metadata["group"]
        if name not in groups:
            groups[name] = parser.add_argument_group(name)
        _add_argument(groups[name], item)
    return TrainConfig(**vars(parser.parse_args(argv)))


def _add_argument(group: argparse._ArgumentGroup, item: dataclasses.Field) -> None:
    kind = item.type
    if isinstance(kind, UnionType):  # `int | None`
        kind = get_args(kind)[0]
    several = get_origin(kind) is tuple
    default: Any = item.default
    required = default is dataclasses.MISSING
    help_text = item.metadata["help"]
    if not required and default is not None:
        help_text += f" (default: {' '.join(default) if several else default})"
    if kind is bool:
        group.add_argument(f"--{item.name}", action="store_true", default=argparse.SUPPRESS, help=help_text)
        return
    group.add_argument(
        f"--{item.name}",
        type=str if several else kind,
        nargs="+" if several else None,
        default=argparse.SUPPRESS,  # the dataclass has the defaults
        required=required,
        choices=item.metadata["choices"],
        help=help_text,
    )
