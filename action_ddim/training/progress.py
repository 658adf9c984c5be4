"""`Progress`: how far a run has come, and what it must be to go on, as `progress.json` of a checkpoint holds it."""

import json
import re
from dataclasses import asdict, dataclass
from typing import Any
from unicodedata import category

from action_ddim.training import tracking
from action_ddim.training.run import Run


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come.

    Args:
        epoch: Epochs that are complete.
        batch: Batches of the next epoch that are behind.
        update: Updates since the start.
        num_epochs, max_train_steps: Of the run so far; runs from before there was the latter have none.
        skipped_in_a_row: Updates, the last ones.
        early_stopping: The state of `EarlyStopping`, None without it.
        wandb_run: The id of the tracker's run.
        identity: What must be the same to go on, by the name of the flag.
    """

    epoch: int
    batch: int
    update: int
    num_epochs: int
    max_train_steps: int | None = None
    skipped_in_a_row: int
    early_stopping: dict | None
    wandb_run: str | None
    identity: dict[str, Any]

    @classmethod
    def of(cls, run: Run) -> "Progress":
        return cls(
            epoch=run.epoch,
            batch=run.batch,
            update=run.update,
            num_epochs=run.config.num_epochs,
            max_train_steps=run.config.max_train_steps,
            skipped_in_a_row=run.tally.skipped_in_a_row,
            early_stopping=run.early_stopping.state(),
            wandb_run=tracking.wandb_run_id(run.accelerator),
            identity=run.identity,
        )

    @classmethod
    def from_json(cls, text: str) -> "Progress":
        """Read what `to_json` wrote.

        Raises:
            ValueError, TypeError, AttributeError, RecursionError: it is not what a run writes.
        """
        progress = cls(**json.loads(text))
        progress._check_kinds()
        return progress

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    def _check_kinds(self) -> None:
        """Raise an error where something is not of the kind that a run writes, and would lead astray later."""
        counts = [self.epoch, self.batch, self.update, self.num_epochs, self.skipped_in_a_row, self.max_train_steps or 0]
        stopping = self.early_stopping
        if (
            not all(type(count) is int and count >= 0 for count in counts)
            or not all("Cc" not in map(category, str(value)) for value in self.identity.values())
            or not re.fullmatch(r"[^/\\#?%:\x00-\x1f]*", self.wandb_run or "")  # as wandb has them: it becomes part of a path
            or not (stopping is None or stopping.keys() == {"metric", "best", "best_epoch"})
            or not (stopping is None or isinstance(stopping["best"], int | float | None))
            or not (stopping is None or type(stopping["best_epoch"]) is int)
        ):
            raise ValueError("progress.json holds what no run writes")
