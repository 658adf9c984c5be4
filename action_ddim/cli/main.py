"""The doors: the verbs of `action-ddim`, and the two scripts that are `train` and `generate` under other names.

Each verb takes the arguments after it, and returns the exit code. A mistake ends in one line on stderr.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from action_ddim import __version__
from action_ddim.cli import data, model, planning, serving
from action_ddim.cli import train as train_cli
from action_ddim.cli.inputs import suggestion
from action_ddim.cli.outputs import mute
from action_ddim.errors import RunError, RunStopped, UserError, is_first_process

SPEAK_AFTER_S = 10  # launchers end the others within a second, on a busy machine within a few


def _in_one_line(run: Callable[[], None]) -> int:
    """Run a verb; return its exit code, and print what a person can mend as one line, on one process only."""
    try:
        with _without_windows():
            run()
        if sys.stdout:
            sys.stdout.flush()
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
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        mute(sys.stdout)
        return 141  # as of a process that SIGPIPE ended
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _reader_is_gone() -> bool:
    """Say whether nobody reads what is printed any more, as after `head` has had enough."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


@contextmanager
def _without_windows() -> Iterator[None]:
    """Let matplotlib draw to files only, within: a notebook's own backend may not be installed here."""
    before = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "agg"
    try:
        yield
    finally:
        if before is None:
            del os.environ["MPLBACKEND"]
        else:
            os.environ["MPLBACKEND"] = before


class Door(Protocol):
    """A verb that takes the arguments after it, and returns the exit code."""

    def __call__(self, argv: list[str], prog: str | None = None) -> int: ...


def _door(verb: Callable[[list[str], str | None], None], *, tidy: bool = True) -> Door:
    def door(argv: list[str], prog: str | None = None) -> int:
        run = partial(verb, argv, prog)
        return _in_one_line(_ended_tidily()(run) if tidy else run)

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


train = _door(train_cli.train, tidy=False)  # which saves the run where it is told to stop
generate = _door(data.generate, tidy=False)
VERBS = {
    "train": train,
    "generate": generate,
    "import": _door(data.import_data),
    "inspect": _door(data.inspect),
    "push-data": _door(data.push_data),
    "evaluate": _door(model.evaluate),
    "sample": _door(model.sample),
    "reconstruct": _door(model.reconstruct),
    "export": _door(model.export),
    "gesture": _door(planning.gesture),
    "plan": _door(planning.plan),
    "replay": _door(serving.replay),
    "studio": _door(serving.studio),
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
    return _in_one_line(partial(print, usage, file=sys.stdout if word else sys.stderr)) or (0 if word else 2)
