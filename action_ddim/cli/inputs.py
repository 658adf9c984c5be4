"""What verbs take: a command line whose mistakes are one line, and data, which is checked before any work."""

import argparse
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from action_ddim import __version__
from action_ddim.actions import NUM_CHANNELS, PRESS, find_invalid
from action_ddim.cli.outputs import check_output
from action_ddim.errors import UserError
from action_ddim.pretrained import DEVICES

if TYPE_CHECKING:
    from action_ddim.data.dataset import ActionDataset
    from action_ddim.pipeline import ActionDDIMPipeline

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
MAY_BE_BLANK = ("--delimiter",)  # a tab, or a space
ALIKE = 0.7  # of difflib's ratio, 0 to 1: `epochs` is .75 like `num_epochs`


def suggestion(word: str, known: Iterable[str]) -> str | None:
    """Return the question whether one of the known names is meant by a word, None where none is like it."""
    names = {name.strip("-"): name for name in known}
    plain = word.strip("-").replace("-", "_").lower()
    meant = [name for name in HABITS.get(plain, ()) if name in names] or get_close_matches(plain, names, 1, ALIKE)
    return f"did you mean {names[meant[0]]}?" if meant else None


class DefaultsFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Tells the default of a flag that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class OneLineParser(argparse.ArgumentParser):
    """An `ArgumentParser` with `--version`, whose mistakes become a `UserError` instead of a usage text and an exit.

    Its help tells the defaults.
    """

    def __init__(self, **settings):
        super().__init__(**{"formatter_class": DefaultsFormatter, **settings}, allow_abbrev=False)
        self.add_argument("--version", action="version", version=f"action-ddim {__version__}")
        self._words: list[str] = []

    def parse_known_args(self, args=None, namespace=None):  # what parse_args calls; kept for its messages
        self._words = list(args or ())
        before = [None, *self._words]
        if any(not word.strip() for word, flag in zip(self._words, before, strict=False) if flag not in MAY_BE_BLANK):
            raise UserError(
                "an argument is blank: a variable of the shell may be unset; and after a line's last backslash the shell takes"
                " no comment and no space: put comments on lines of their own above the command"
            )
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        # A flag that is misspelled is the cause, whatever argparse stumbled over first.
        flags = (word.split("=")[0] for word in self._words if re.match("--?[a-zA-Z]", word))
        unknown = next((flag for flag in flags if flag not in self._option_string_actions), None)
        if unknown:
            message = f"{unknown} is not a flag"
        remedy = (unknown and suggestion(unknown, self._option_string_actions)) or "--help lists the flags"
        raise UserError(f"{message}; {remedy}")


def screen_size(text: str) -> tuple[int, int]:
    """Read WIDTHxHEIGHT in pixels."""
    width, x, height = text.partition("x")
    if not (x and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text} is no size; give width and height in pixels, as 1920x1080")
    return int(width), int(height)


def open_data(folder: str, model: str, seq_len: int) -> "ActionDataset":
    """Open a folder of sequences as long as the model's, and read every value once.

    Raises:
        UserError: the folder or a file in it is not what it should be, or the sequences are of another length.
    """
    from action_ddim.data.dataset import open_for_model

    data = open_for_model("--data_dir", folder, seq_len, f"--model {model}")
    data.validate()
    return data


def check_actions(path: Path, actions: np.ndarray, batch_size: int, flag: str = "--input", margin: float = 0.0) -> None:
    """Hold every row of a file against the contract of `actions.py`; places may lie outside the screen by the margin."""
    if not len(actions):
        raise UserError(f"{flag} {path} holds no sequences; name a file that does")
    for first in range(0, len(actions), batch_size):
        rows = np.array(actions[first : first + batch_size]).reshape(-1, NUM_CHANNELS)
        near = abs(rows[:, :PRESS] - 0.5) <= 0.5 + margin
        rows[:, :PRESS] = np.where(near, rows[:, :PRESS].clip(0, 1), rows[:, :PRESS])
        invalid = find_invalid(rows)
        if invalid is not None:
            row, fault = invalid
            raise UserError(f"{flag} {path}, row {first * actions.shape[1] + row}: {fault}; mend the file")


def model_parser(prog: str | None, description: str | None, *, batch_size: int | None = None) -> argparse.ArgumentParser:
    """Make a parser with the flags that all verbs of a model take; without a size of batches there is no flag for it."""
    parser = OneLineParser(prog=prog, description=description)
    add = parser.add_argument
    add_model(parser)
    add("--seed", type=int, default=0, help="the same seed gives the same actions")
    add("--device", choices=DEVICES, default="auto", help="auto takes a CUDA GPU where there is one, else the CPU")
    if batch_size:
        add("--batch_size", type=int, default=batch_size, help="sequences at once; it does not change the actions")
    add("--overwrite", action="store_true", help="replace files that exist")
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    help_text = "pipeline folder, as a training run leaves it, or its Hub id, ORG/NAME"
    parser.add_argument("--model", required=True, help=help_text)


def add_compile(parser: argparse.ArgumentParser) -> None:
    help_text = "compile the denoiser, on a GPU to CUDA graphs: half a minute at first, then faster; for thousands of sequences"
    parser.add_argument("--compile", action="store_true", help=help_text)


def add_output(parser: argparse.ArgumentParser) -> None:
    out = "file to write, .npy, float32 (rows, 3), one sequence after another"
    parser.add_argument("--out", type=Path, required=True, help=out)
    parser.add_argument("--plot", type=Path, help="picture of the first sequences to write, .png")


def check_at_least(args: argparse.Namespace, least: int, *names: str) -> None:
    """Hold flags against their least, where they are given, and the seed of a verb that has one against its range."""
    for name in names:
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name} is {value}; give at least {least}")
    if not 0 <= getattr(args, "seed", 0) < 2**32:
        raise UserError(f"--seed is {args.seed}; give 0 to {2**32 - 1}")


def check_outputs(args: argparse.Namespace) -> None:
    for flag, path, suffix in (("--out", args.out, ".npy"), ("--plot", args.plot, ".png")):
        if path is not None and path.suffix != suffix:
            raise UserError(f"{flag} {path} does not end in {suffix}; it is written in that format")
        if path is not None:
            check_output(flag, path, args.overwrite)


def check_steps(args: argparse.Namespace, pipeline: "ActionDDIMPipeline", *names: str) -> None:
    most = pipeline.scheduler.config.num_train_timesteps
    for name in names:
        if getattr(args, name) > most:
            raise UserError(f"--{name} is {getattr(args, name)}; give at most {most}, the timesteps of --model {args.model}")
