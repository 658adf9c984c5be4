"""Command lines: a parser whose mistakes are one line, and the trainer's, built from the fields of `TrainConfig`."""

import argparse
import dataclasses
from types import UnionType
from typing import Any, NoReturn, get_args, get_origin

from action_ddim.config import TrainConfig
from action_ddim.errors import UserError


class OneLineParser(argparse.ArgumentParser):
    """An `ArgumentParser` whose mistakes become a `UserError` instead of a usage text and an exit."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists the flags")


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
    parser = OneLineParser(
        prog=prog,
        description="Train a DDIM diffusion model of pointer and touch actions.",
        allow_abbrev=False,
    )
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
