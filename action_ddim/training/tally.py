"""`Tally`: what an epoch has seen so far, its losses and gradient norms.

They stay on the device until someone looks, and take 4 bytes each from then on: an epoch may have millions. An update whose
loss or gradient is not finite is skipped, and its norm is not finite here: that is how it is counted.
"""

import math
from array import array
from collections.abc import Iterable

import torch


class Tally:
    """The losses of this process and the gradient norms of the epoch under way, and how many updates were skipped in a row.

    `add` waits for nothing; `look`, and with it all that is asked of a tally, waits for the device.
    """

    def __init__(self) -> None:
        # Since the last look, on the device: of each batch and each update, not finite where it was skipped.
        self._new_losses: list[torch.Tensor] = []
        self._new_grad_norms: list[torch.Tensor] = []
        # Up to it:
        self._losses, self._grad_norms = array("f"), array("f")
        self.skipped = 0  # in this epoch
        self.skipped_in_a_row = 0  # up to now, over epochs
        self.longest_row = 0

    @property
    def num_updates(self) -> int:
        return len(self._grad_norms) + len(self._new_grad_norms)

    def add(self, loss: torch.Tensor, grad_norm: torch.Tensor | None) -> None:
        """Take a batch's loss, and the gradient norm where it ended in an update: float32 numbers `()`."""
        self._new_losses.append(loss)
        if grad_norm is not None:
            self._new_grad_norms.append(grad_norm)

    def look(self) -> None:
        """Take in what came since the last look, and count what was skipped."""
        self._take(_values(self._new_losses), _values(self._new_grad_norms))
        self._new_losses, self._new_grad_norms = [], []

    def _take(self, losses: list[float], grad_norms: list[float]) -> None:
        self._losses.extend(losses)
        self._grad_norms.extend(grad_norms)
        for norm in grad_norms:
            is_skipped = not math.isfinite(norm)
            self.skipped += is_skipped
            self.skipped_in_a_row = self.skipped_in_a_row + 1 if is_skipped else 0
            self.longest_row = max(self.longest_row, self.skipped_in_a_row)

    def mean_loss(self, last: int = 0) -> float:
        """Return the mean of this process's finite losses, of all or the last few batches; NaN where there is none."""
        self.look()
        return _finite_mean(self._losses[-last:])  # [-0:] is all

    def mean_grad_norm(self) -> float:
        """Return the mean gradient norm of the updates that were not skipped; NaN where there is none."""
        self.look()
        return _finite_mean(self._grad_norms)

    def clear(self) -> None:
        """Begin another epoch."""
        self.look()
        self._losses, self._grad_norms, self.skipped = array("f"), array("f"), 0

    def state(self, gather, num_processes: int, device: torch.device) -> dict[str, torch.Tensor]:
        """Return the losses of all processes, `(processes, batches)`, and the gradient norms. MUST be called on every rank."""
        self.look()
        if not self._losses:
            return {}
        losses = gather(torch.tensor(self._losses, device=device)).view(num_processes, -1)
        return {"losses": losses.cpu(), "grad_norms": torch.tensor(self._grad_norms)}

    def load_state(self, state: dict[str, torch.Tensor], rank: int, skipped_in_a_row: int) -> None:
        """Go on from a state, as this rank."""
        if state:
            self._take(state["losses"][rank].tolist(), state["grad_norms"].tolist())
        self.skipped_in_a_row = self.longest_row = skipped_in_a_row


def _values(scalars: list[torch.Tensor]) -> list[float]:
    return torch.stack(scalars).tolist() if scalars else []


def _finite_mean(values: Iterable[float]) -> float:
    finite = array("f", filter(math.isfinite, values))
    return math.fsum(finite) / len(finite) if finite else math.nan
