"""What the page asks of a model: new actions, and ways through points. It loads while the page is open already."""

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from action_ddim.actions import NUM_CHANNELS, PRESS
from action_ddim.errors import UserError, first_line
from action_ddim.evaluation.model_card import read_card
from action_ddim.inpainting import build_mask
from action_ddim.pretrained import find_pipeline, load_pipeline, model_settings

if TYPE_CHECKING:
    from action_ddim.pipeline import ActionDDIMPipeline

AT_ONCE = 4  # sequences, between which the page hears how far it is


class Artist:
    """A model that draws for the page, one request at a time, once it was started to load.

    Args:
        model: A pipeline folder or Hub id, of which the folder is looked for at once.
        num_inference_steps: DDIM steps of each drawing.

    Raises:
        UserError: there is no such folder, its settings cannot be read, or it has fewer timesteps than that.
    """

    def __init__(self, model: str, device: str = "auto", num_inference_steps: int = 50):
        folder = find_pipeline(model)
        self.name, self.num_inference_steps = model, num_inference_steps
        self.rate_hz = read_card(folder).rate_hz
        settings = model_settings(str(folder), "--model")
        self.seq_len, most = int(settings["seq_len"]), int(settings["num_train_timesteps"])
        if num_inference_steps > most:
            raise UserError(
                f"--num_inference_steps is {num_inference_steps}; give at most {most}, the timesteps of --model {model}"
            )
        self._fault: str | None = None
        self._turn = threading.Lock()
        self._loading = threading.Thread(target=self._load, args=(model, device), daemon=True)

    def start(self) -> None:
        """Begin to load, beside all else."""
        self._loading.start()

    def _load(self, model: str, device: str) -> None:
        try:
            self._pipeline = load_pipeline(model, device)
        except UserError as error:
            self._fault = str(error)
        except Exception as error:  # a device that is out of memory, say: the page is told, and records on
            self._fault = f"--model {model} cannot be loaded: {first_line(error)}"
            raise

    @property
    def state(self) -> str:
        """`loading`, `ready`, or what is wrong."""
        return "loading" if self._loading.is_alive() else self._fault or "ready"

    def _loaded(self) -> "ActionDDIMPipeline":
        self._loading.join()
        if self._fault:
            raise UserError(self._fault)
        return self._pipeline

    def draw(self, num: int, known: np.ndarray | None = None, mask: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Return `num` new actions, arrays `(n, L, 3)` as they are done, with what is known in all of them."""
        pipeline = self._loaded()
        for done in range(0, num, AT_ONCE):
            with self._turn:
                (actions,) = pipeline(
                    min(AT_ONCE, num - done), self.num_inference_steps, known=known, mask=mask, return_dict=False
                )
            yield actions

    def through(self, points: np.ndarray, *, drag: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return what is known, `(L, 3)`, and its mask, of actions through points `(P, 2)` in equal times.

        A single point is passed in the middle; several from a third of the time to two thirds. `drag` presses from the first to
        the last, and nowhere else; without it the press is the model's to choose.

        Raises:
            UserError: there are more points than steps for them.
        """
        ends = (self.seq_len // 2,) * 2 if len(points) == 1 else (self.seq_len // 3, 2 * self.seq_len // 3)
        most = ends[1] - ends[0] + 1
        if len(points) > most:
            raise UserError(f"{len(points)} points are too many for the {most} steps that they have; take some away")
        at = np.linspace(*ends, len(points)).round().astype(int)
        known = np.zeros((self.seq_len, NUM_CHANNELS), np.float32)
        known[at, :PRESS] = points
        known[at[0] : at[-1] + 1, PRESS] = 1
        return known, build_mask(self.seq_len, waypoints=at.tolist(), press=drag)
