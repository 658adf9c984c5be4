"""Errors whose message is one line for the person at the terminal; the doors print it instead of a traceback."""


class UserError(ValueError):
    """A mistake in a flag, a file or the set-up, found before any work: what is wrong, and the remedy. Exit code 2."""

    exit_code = 2


class RunError(RuntimeError):
    """A run that cannot go on, through no mistake that could be seen beforehand. Exit code 1."""

    exit_code = 1
