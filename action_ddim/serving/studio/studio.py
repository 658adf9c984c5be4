"""What the page works with: sessions, windows made of them or of a data set, and a model where there is one."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from action_ddim.errors import UserError
from action_ddim.recordings.convert import ImportConfig, import_recordings
from action_ddim.recordings.formats.studio import is_number
from action_ddim.serving.studio.sessions import Sessions

if TYPE_CHECKING:
    from action_ddim.data.dataset import ActionDataset
    from action_ddim.serving.studio.drawing import Artist

MAX_ACTIONS, MAX_POINTS = 64, 32
DECIMALS = 5  # of places that the page draws
MAX_PAIRS = 1000  # to guess, of which the answers are kept
HELD_OUT = 0.1  # of the sessions


class Studio:
    """Answers what the page asks. Messages are objects as the page sends them.

    Args:
        folder: Where `sessions/` lie and `windows/` are written.
        artist: The model.
        data: Windows to watch and to guess, instead of those recorded here.
        rate: Steps a second of the windows.
        seq_len: Their length, where no model says it.
    """

    def __init__(self, folder: Path, artist: "Artist | None", data: "ActionDataset | None", rate: float, seq_len: int):
        self.folder, self.artist, self.data, self.rate, self._seq_len = folder, artist, data, rate, seq_len
        (folder / "sessions").mkdir(parents=True, exist_ok=True)
        self.sessions = Sessions(folder / "sessions")
        self._turn = threading.Lock()  # two tabs may ask at once for windows, which are made, and read, by one at a time
        self._exported: dict[Path, int] | None = None  # the sessions that windows/ are made of, and their bytes then
        self._pairs: dict[str, bool] = {}  # whether the left one is real, of pairs not yet guessed

    @property
    def seq_len(self) -> int:
        return self.artist.seq_len if self.artist else self._seq_len

    def state(self) -> dict:
        """Return what there is."""
        model = self.artist and {"name": self.artist.name, "state": self.artist.state}
        recorded = [said._asdict() for said in self.sessions.said()]
        return {"model": model, "rate": self.rate, "sessions": recorded, "folder": str(self.folder.resolve())}

    def export(self) -> dict:
        """Make windows of all sessions, in `windows/train` and `windows/val`, as `action-ddim import` does."""
        with self._turn:
            return self._export()

    def _export(self) -> dict:
        sizes = self._sizes()
        sources = tuple(sizes)
        if not sources:
            raise UserError("nothing is recorded yet")
        config = ImportConfig(
            sources,
            format="studio",
            rate=self.rate,
            seq_len=self.seq_len,
            windows="press",
            split_by="session",
            val_fraction=HELD_OUT,
        )
        summary = import_recordings(config, self.folder / "windows", overwrite=True, lone_to_train=True)
        self._exported = sizes
        counts = summary.counts
        return {
            "train": summary.count("train"),
            "val": summary.count("val"),
            "rows": counts.rows,
            "dropped": dict(counts.dropped),
            "unread": summary.unread,
            "folder": str((self.folder / "windows").resolve()),
        }

    def _sizes(self) -> dict[Path, int]:
        return {path: path.stat().st_size for path in self.sessions.paths()}

    def recorded(self, asked: dict) -> dict:
        """Return `num` real actions, drawn by lot; fewer where there are no more."""
        return {"actions": _numbers(self._real(_whole(asked, "num", 1, MAX_ACTIONS)))}

    def _real(self, num: int) -> np.ndarray:
        with self._turn:
            data = self.data or self._recorded_windows()
            return data.read(sorted(random.sample(range(len(data)), min(num, len(data))))).numpy()

    def _recorded_windows(self) -> "ActionDataset":
        from action_ddim.data.dataset import ActionDataset  # and with it torch, which recording alone does without

        folder = self.folder / "windows" / "train"
        if self._exported != self._sizes() or not folder.is_dir():
            self._export()
        return ActionDataset(folder, seq_len=self.seq_len)

    def draw(self, asked: dict) -> Iterator[dict]:
        """Draw `num` actions: return how many are done, of how many, and these, as they are done.

        Raises:
            ValueError: the message is not what it should be. So does every method that takes one.
            UserError: there is no model.
        """
        num = _whole(asked, "num", 1, MAX_ACTIONS)
        return _told(self._artist().draw(num), num)

    def fill(self, asked: dict) -> Iterator[dict]:
        """Draw `num` actions through `points`, as `draw` does; `drag` is as in `Artist.through`."""
        points = asked.get("points")
        if not isinstance(points, list) or not 0 < len(points) <= MAX_POINTS:
            raise ValueError(f"points is not a list of 1 to {MAX_POINTS}")
        if not all(
            isinstance(point, list) and len(point) == 2 and all(is_number(value, 0, 1) for value in point) for point in points
        ):
            raise ValueError("a point is not [x, y], shares of the canvas")
        num, artist = _whole(asked, "num", 1, MAX_ACTIONS), self._artist()
        return _told(artist.draw(num, *artist.through(np.array(points), drag=asked.get("drag") is True)), num)

    def pair(self) -> dict:
        """Return a real and a drawn action, one left and one right by lot."""
        real = self._real(1)[0]
        (drawn,) = next(self._artist().draw(1))
        name, left_is_real = f"{random.getrandbits(64):016x}", random.random() < 0.5
        if len(self._pairs) >= MAX_PAIRS:
            self._pairs.pop(next(iter(self._pairs)))
        self._pairs[name] = left_is_real
        left, right = (real, drawn) if left_is_real else (drawn, real)
        return {"pair": name, "left": _numbers(left), "right": _numbers(right)}

    def guess(self, asked: dict) -> dict:
        """Say whether the side that was guessed is the real one; a pair can be guessed once."""
        if asked.get("side") not in ("left", "right"):
            raise ValueError("side is not left or right")
        if not isinstance(asked.get("pair"), str) or asked["pair"] not in self._pairs:
            raise ValueError("pair is none that waits for a guess")
        real = "left" if self._pairs.pop(asked["pair"]) else "right"
        return {"real": real, "right": asked["side"] == real}

    def _artist(self) -> "Artist":
        if self.artist is None:
            raise UserError("there is no model; start the studio with --model PIPELINE")
        return self.artist


def _whole(asked: dict, name: str, least: int, most: int) -> int:
    value = asked.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is not a whole number from {least} to {most}")
    return value


def _numbers(actions: np.ndarray) -> list:
    return np.round(actions.astype(float), DECIMALS).tolist()


def _told(drawn: Iterator[np.ndarray], num: int) -> Iterator[dict]:
    """Return what the page hears while actions are drawn: how many are done, and these."""
    done = 0
    for batch in drawn:
        done += len(batch)
        yield {"done": done, "of": num, "actions": _numbers(batch)}
