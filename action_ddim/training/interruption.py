"""`Interruption`: the wish that a run end early: SIGTERM, SIGINT, or that its time is up.

A signal only leaves a note, which the run reads after each update, before each batch of validation, and while its data is
checked. A second one ends the process at once, as if there were no handler; what is on disk is whole at every instant.
"""

import os
import signal
import threading
import time

import torch
from accelerate import Accelerator

from action_ddim.errors import is_first_process

TIME_IS_UP = 1  # below the numbers of the signals, which outrank it
REASONS = {TIME_IS_UP: "--max_train_time", signal.SIGINT: "SIGINT", signal.SIGTERM: "SIGTERM"}
ONE_REQUEST_S = 1.0  # SLURM signals a launcher and its processes, and the launcher passes it on: one request, two signals


class Interrupted(Exception):  # noqa: N818  (it is no error)
    """The run is to end now, for a reason of `REASONS`: raised where its state is one that can be saved."""

    def __init__(self, reason: int):
        super().__init__(REASONS[reason])
        self.reason = reason


class Interruption:
    """Catches the signals within its context.

    Args:
        max_minutes: Time after which the run is to end, counted from here; None for no limit.
    """

    def __init__(self, max_minutes: float | None = None):
        self._deadline = time.monotonic() + 60 * max_minutes if max_minutes is not None else None
        self._signal = 0
        self._caught_at = 0.0
        self._previous: dict = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python takes no handlers
            self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        now = time.monotonic()
        if not self._signal:
            self._signal, self._caught_at = number, now
            if is_first_process():
                text = f"\n{REASONS[number]}: the run stops as soon as it can be saved; a second one ends it at once\n"
                os.write(2, text.encode())  # print is not for signal handlers
        elif now - self._caught_at > ONE_REQUEST_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    @property
    def wish(self) -> int:
        """The reason that this process has to stop, a key of `REASONS`, or 0."""
        late = self._deadline is not None and time.monotonic() > self._deadline
        return self._signal or (TIME_IS_UP if late else 0)

    def reason(self, accelerator: Accelerator) -> int:
        """Return the reason that any process has to stop, or 0; the same on every rank, where it MUST be called."""
        if accelerator.num_processes == 1:
            return self.wish
        return int(accelerator.gather(torch.tensor([self.wish], device=accelerator.device)).max())

    def check(self, accelerator: Accelerator) -> None:
        """Raise Interrupted where there is a reason to stop. MUST be called on every rank."""
        reason = self.reason(accelerator)
        if reason:
            raise Interrupted(reason)


def exit_code(reason: int) -> int:
    """Return what a shell makes of the signal: 143 or 130; 0 for the time limit."""
    return 0 if reason == TIME_IS_UP else 128 + reason
