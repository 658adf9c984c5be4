"""`EarlyStopping`: which epoch was the best by a metric, and whether it is too long ago."""

import math
from dataclasses import dataclass

from action_ddim.evaluation.realism import DISTANCES

DRAWN_METRICS = tuple(f"val/realism/{name}" for name in DISTANCES)  # which are measured every --plot_epochs
# The metrics it may go by, and whether more is better. Those with a target of 1 have no better and worse.
METRICS = {
    "val/loss": False,
    "val/mse": False,
    "val/coord_mse": False,
    "val/press_accuracy": True,
    "val/mean_snr_db": True,
    **dict.fromkeys(DRAWN_METRICS, False),
}


@dataclass
class EarlyStopping:
    """Remembers the best epoch; off where the patience is None.

    Args:
        patience: Epochs without an improvement after which the run ends.
        metric: A key of `METRICS`.
        min_delta: An improvement is more than this.
        every: Epochs between those that have the metric.
    """

    patience: int | None
    metric: str
    min_delta: float
    every: int = 1
    best: float | None = None
    best_epoch: int = 0

    @property
    def on(self) -> bool:
        return self.patience is not None

    def improves(self, epoch: int, value: float) -> bool:
        """Take note of an epoch's metric; say whether it is the best so far. NaN never is."""
        if not math.isfinite(value):
            return False
        gain = math.inf if self.best is None else (value - self.best) * (1 if METRICS[self.metric] else -1)
        if gain <= self.min_delta:
            return False
        self.best, self.best_epoch = value, epoch
        return True

    def exhausted(self, epoch: int) -> bool:
        """Say whether the patience is at its end after this epoch."""
        return self.patience is not None and epoch - epoch % self.every - self.best_epoch >= self.patience

    def verdict(self) -> str:
        """Say why the patience is at its end."""
        if self.best is None:
            return f"{self.metric} was no finite number in {self.patience} epochs, so that none of them is the best"
        epochs = f"{self.metric} has not improved for {self.patience} epochs"
        return f"{epochs}; the best was {self.best:g} after epoch {self.best_epoch}"

    def state(self) -> dict | None:
        return {"metric": self.metric, "best": self.best, "best_epoch": self.best_epoch} if self.on else None

    def load_state(self, state: dict | None, epoch: int) -> None:
        """Go on from a state after this epoch; without one, or with that of another metric, the patience begins here."""
        self.best, self.best_epoch = None, epoch
        if state is not None and state["metric"] == self.metric:
            self.best, self.best_epoch = state["best"], state["best_epoch"]
