"""`Tally`: what an epoch has seen so far, its losses and gradient norms, kept on the device until someone looks.

An update whose loss or gradient is not finite is skipped, and its norm is not finite here: that is how it is counted.
"""

import math

import torch


class Tally:
    """The losses of this process and the gradient norms of the epoch under way, and how many updates were skipped in a row.

    Collecting them waits for nothing; `look` waits for the device.
    """

    def __init__(self) -> None:
        self.losses: list[torch.Tensor] = []  # of each batch, not finite where it was
        self.grad_norms: list[torch.Tensor] = []  # of each update, not finite where it was skipped
        # As of the last look:
        self.skipped = 0  # in this epoch
        self.skipped_in_a_row = 0  # up to now, over epochs
        self.longest_row = 0
        self._looked_at = 0

    def look(self) -> None:
        """Count what was skipped since the last look."""
        for norm in _values(self.grad_norms[self._looked_at :]):
            is_skipped = not math.isfinite(norm)
            self.skipped += is_skipped
            self.skipped_in_a_row = self.skipped_in_a_row + 1 if is_skipped else 0
            self.longest_row = max(self.longest_row, self.skipped_in_a_row)
        self._looked_at = len(self.grad_norms)

    def mean_loss(self, last: int | None = None) -> float:
        """Return the mean of this process's finite losses, of all or the last few batches; NaN where there is none."""
        return _finite_mean(self.losses[-last:] if last else self.losses)

    def mean_grad_norm(self) -> float:
        """Return the mean gradient norm of the updates that were not skipped; NaN where there is none."""
        return _finite_mean(self.grad_norms)

    def clear(self) -> None:
        """Begin another epoch."""
        self.look()
        self.losses, self.grad_norms, self.skipped, self._looked_at = [], [], 0, 0

    def state(self, gather, num_processes: int) -> dict[str, torch.Tensor]:
        """Return the losses of all processes, `(processes, batches)`, and the gradient norms. MUST be called on every rank."""
        if not self.losses:
            return {}
        losses = gather(torch.stack(self.losses)).view(num_processes, -1)
        return {"losses": losses.cpu(), "grad_norms": torch.stack(self.grad_norms).cpu()}

    def load_state(self, state: dict[str, torch.Tensor], rank: int, device: torch.device, skipped_in_a_row: int) -> None:
        """Go on from a state, as this rank."""
        self.losses = list(state["losses"][rank].to(device)) if state else []
        self.grad_norms = list(state["grad_norms"].to(device)) if state else []
        self.look()
        self.skipped_in_a_row = self.longest_row = skipped_in_a_row


def _values(scalars: list[torch.Tensor]) -> list[float]:
    return torch.stack(scalars).tolist() if scalars else []


def _finite_mean(scalars: list[torch.Tensor]) -> float:
    finite = [value for value in _values(scalars) if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan
