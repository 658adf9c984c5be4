"""Errors whose message is one line for the person at the terminal; the doors print it instead of a traceback."""

import os


class UserError(ValueError):
    """A mistake in a flag, a file or the set-up, found before any work: what is wrong, and the remedy. Exit code 2."""

    exit_code = 2


class RunError(RuntimeError):
    """A run that cannot go on, through no mistake that could be seen beforehand. Exit code 1."""

    exit_code = 1


class RunStopped(Exception):  # noqa: N818  (it is no error)
    """A run that was asked to stop, by a signal or its time limit, and is saved: where, and how it goes on."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, or its kind where it says nothing."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def is_first_process() -> bool:
    """Say whether this is the process that speaks for all, also before there is a process group."""
    return os.environ.get("RANK", "0") == "0"
