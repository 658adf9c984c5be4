"""Mouse logs of the Balabit family: a row an event, `client timestamp,button,state,x,y`, places in pixels.

Balabit Mouse Dynamics Challenge (Fülöp et al., 2016): seconds, with a `record timestamp` of the recording proxy before the
client's.
SapiMouse (Antal, Fejér and Buza, 2021): milliseconds.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from action_ddim.errors import UserError
from action_ddim.recordings.formats.tables import read_csv
from action_ddim.recordings.trace import Counts, Recording, Trace, make_trace

PRESSED = {"Pressed", "Drag"}  # the row's own state: releases get lost, and a Drag has no button
KNOWN = {*PRESSED, "Released", "Move"}
OFF_SCREEN = 65535
BALABIT_HEADER = "record timestamp,client timestamp,button,state,x,y"
SAPIMOUSE_HEADER = "client timestamp,button,state,x,y"
TIME = "client timestamp"


def read_balabit(path: Path, counts: Counts) -> Iterator[Trace]:
    """Read a Balabit session, whose times are in seconds."""
    return _read(path, counts, 1.0)


def read_sapimouse(path: Path, counts: Counts) -> Iterator[Trace]:
    """Read a SapiMouse session, whose times are in milliseconds."""
    return _read(path, counts, 1000.0)


def _read(path: Path, counts: Counts, per_second: float) -> Iterator[Trace]:
    # Sessions lie in a folder a person.
    recording = Recording(str(path), "mouse", user=path.resolve().parent.name, session=path.name)
    start, pressed = None, False
    for batch in read_csv(path, [TIME, "x", "y"], ["button", "state"], counts):
        time, x, y = (batch.column(name).to_numpy(zero_copy_only=False) for name in (TIME, "x", "y"))
        button, state = (batch.column(name).to_numpy(zero_copy_only=False) for name in ("button", "state"))
        scroll = button == "Scroll"  # whose state is Up or Down, and x = y = 0
        outside = (x == OFF_SCREEN) | (y == OFF_SCREEN)
        unknown = ~(scroll | np.isin(state, [*KNOWN]))
        if unknown.any():
            raise UserError(f"{path} has the state {state[unknown][0]!r}; known are {', '.join(sorted(KNOWN))}")
        counts.rows += int(np.count_nonzero(scroll | outside))
        counts.drop("scroll", np.count_nonzero(scroll))
        counts.drop("off_screen_mark", np.count_nonzero(outside & ~scroll))
        kept = ~(scroll | outside)
        time, x, y, state = time[kept], x[kept], y[kept], state[kept]
        if not len(time):
            continue
        start = time[0] if start is None else start
        press = np.isin(state, [*PRESSED])
        before = np.append(pressed, press[:-1])
        # A Move after a press, without a Released between them.
        yield make_trace(recording, (time - start) / per_second, x, y, press, lost=before & (state == "Move"))
        pressed = bool(press[-1])
