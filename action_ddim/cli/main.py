"""The doors: the verbs of `action-ddim`, and the two scripts that are `train` and `generate` under other names.

Each verb takes the arguments after it, and returns the exit code. A mistake ends in one line on stderr.
"""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from action_ddim import __version__
from action_ddim.cli import model as model_cli
from action_ddim.cli.train import OneLineParser, parse_train_config, suggestion
from action_ddim.errors import RunError, RunStopped, UserError, is_first_process
from augmentation.gestures import ACTION_TYPES, IDLE_MODES, GestureConfig, write_dataset

SPEAK_AFTER_S = 10  # launchers end the others within a second, on a busy machine within a few


def train(argv: list[str], prog: str | None = None) -> int:
    """Train a DDIM model of actions."""

    def run() -> None:
        config = parse_train_config(argv, prog)
        if config.device == "mps":  # what it lacks runs on the CPU; read as torch is imported
            os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
        # torch, diffusers and accelerate take seconds to import; --help and flag errors do not wait for them.
        from action_ddim.training.loop import train as train_model

        train_model(config)

    return _in_one_line(run)


def generate(argv: list[str], prog: str | None = None) -> int:
    """Write synthetic clicks and swipes."""

    def run() -> None:
        arguments = vars(_generate_parser(prog).parse_args(argv))
        writing = {name: arguments.pop(name) for name in ("output_dir", "sequences_per_file", "overwrite")}
        config = GestureConfig(**arguments)
        write_dataset(config, **writing)
        print(f"{config.num_sequences} sequences of {config.sequence_length} steps are in {writing['output_dir']}")

    return _in_one_line(run)


def _generate_parser(prog: str | None) -> argparse.ArgumentParser:
    default = GestureConfig()
    parser = OneLineParser(
        prog=prog,
        description="Write synthetic clicks and swipes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--output_dir", required=True, default=argparse.SUPPRESS, help="folder to write, made if missing")
    add("--num_sequences", type=int, default=default.num_sequences, help="how many to write")
    add("--action_type", choices=ACTION_TYPES, default=default.action_type, help="mixed: 27%% clicks, the rest swipes")
    add("--min_delta_t_pct", type=float, default=default.min_delta_t_pct, help="shortest press, fraction of the length")
    add("--max_delta_t_pct", type=float, default=default.max_delta_t_pct, help="longest press, fraction of the length")
    add("--sequence_length", type=int, default=default.sequence_length, help="time steps a sequence")
    add("--sequences_per_file", type=int, default=1000, help="sequences a file")
    add("--seed", type=int, default=default.seed, help="the same seed gives the same sequences")
    add("--idle", choices=IDLE_MODES, default=default.idle, help="outside the press: hold the place, or x = y = 0")
    add("--overwrite", action="store_true", help="replace the data set in the folder")
    return parser


def _in_one_line(run: Callable[[], None]) -> int:
    """Run a verb; return its exit code, and print what a person can mend as one line, on one process only."""
    try:
        run()
    except (UserError, RunError) as error:
        if is_first_process():
            print(f"error: {error}", file=sys.stderr)
        else:
            # What all met, the first process says, and the launcher then ends the others while they wait here.
            time.sleep(SPEAK_AFTER_S)
            print(f"error on process {os.environ['RANK']}: {error}", file=sys.stderr)
        return error.exit_code
    except RunStopped as stop:
        if is_first_process():
            print(stop)
        return stop.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _door(verb: Callable[[list[str], str | None], None]) -> Callable[[list[str], str | None], int]:
    def door(argv: list[str], prog: str | None = None) -> int:
        return _in_one_line(_ended_tidily()(lambda: verb(argv, prog)))

    door.__doc__ = verb.__doc__
    return door


@contextmanager
def _ended_tidily() -> Iterator[None]:
    """Let SIGTERM end the process as an exit, so that what is half written is removed; by default it just ends."""
    if threading.current_thread() is not threading.main_thread():  # Python takes no handlers there
        yield
        return
    previous = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)


VERBS = {
    "train": train,
    "generate": generate,
    "evaluate": _door(model_cli.evaluate),
    "sample": _door(model_cli.sample),
    "reconstruct": _door(model_cli.reconstruct),
    "export": _door(model_cli.export),
}


def main(argv: list[str] | None = None) -> int:
    """Run `action-ddim VERB ...`."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in VERBS:
        return VERBS[argv[0]](argv[1:], f"action-ddim {argv[0]}")
    word = argv[0] if argv else ""
    if word == "--version":
        print(f"action-ddim {__version__}")
        return 0
    if word and word not in ("-h", "--help"):
        remedy = suggestion(word, VERBS) or f"choose from {', '.join(VERBS)}"
        print(f"error: {word} is not a verb; {remedy}", file=sys.stderr)
        return 2
    lines = [f"  {name:<13}{verb.__doc__}" for name, verb in VERBS.items()]
    usage = "\n".join(["usage: action-ddim VERB ...", "", *lines, "", "action-ddim VERB --help lists a verb's flags."])
    print(usage, file=sys.stdout if word else sys.stderr)
    return 0 if word else 2
