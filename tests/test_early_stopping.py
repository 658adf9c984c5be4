"""Early stopping, and the skipped updates of a tally."""

import math
import tracemalloc

import pytest
import torch
from safetensors.torch import load_file

from action_ddim.early_stopping import EarlyStopping
from action_ddim.tally import Tally

from .conftest import rows


def stops_after(values, **changes) -> tuple[int | None, int]:
    stopping = EarlyStopping(**{"patience": 2, "metric": "val/loss", "min_delta": 0.0, **changes})
    for epoch, value in enumerate(values, start=1):
        stopping.improves(epoch, value)
        if stopping.exhausted(epoch):
            return epoch, stopping.best_epoch
    return None, stopping.best_epoch


@pytest.mark.parametrize(
    ("values", "changes", "expected"),
    [
        ([3, 2, 1, 1, 1, 0], {}, (5, 3)),
        ([3, 2, 4, 1, 4], {}, (None, 4)),
        ([1, 2, 3, 2, 1], {"metric": "val/mean_snr_db"}, (5, 3)),
        ([1.0, 0.95, 0.91, 0.5], {"min_delta": 0.1}, (3, 1)),
        ([1.0, 0.95, 0.5], {"min_delta": 0.1}, (None, 3)),
        ([math.nan, math.nan], {}, (2, 0)),
        ([1, math.nan, 0.5, math.inf], {}, (None, 3)),
        ([1, 2, 3, 4], {"patience": None}, (None, 1)),
    ],
)
def test_when_it_stops(values, changes, expected):
    assert stops_after(values, **changes) == expected


def test_state_of_another_metric_begins_the_patience_anew():
    stopping = EarlyStopping(2, "val/mse", 0.0)
    stopping.improves(3, 0.5)
    same, other = EarlyStopping(2, "val/mse", 0.0), EarlyStopping(2, "val/loss", 0.0)
    same.load_state(stopping.state(), 4)
    other.load_state(stopping.state(), 4)
    assert (same.best, same.best_epoch) == (0.5, 3)
    assert (other.best, other.best_epoch) == (None, 4)
    assert EarlyStopping(None, "val/mse", 0.0).state() is None


def test_run_ends_when_nothing_improves_and_keeps_the_best(run, capsys):
    """A run that never learns is at its best after its first epoch; stopped, it counts as finished."""
    settings = {"lr": 1e-30, "num_epochs": 9, "early_stopping_patience": 2, "eval_sequences": 2, "ema_decay": 0.0}
    folder = run(**settings)
    table = rows(folder)
    assert [row["epoch"] for row in table] == ["1", "2", "3"]
    assert "val/loss has not improved for 2 epochs; the best was" in capsys.readouterr().out
    assert table[0]["val/mse"] == table[1]["val/mse"]
    assert table[2]["val/mse"] != table[1]["val/mse"]  # the last row is of all sequences
    assert (folder / "pipeline-best" / "model_index.json").exists()
    assert (folder / "checkpoint-000009").is_dir()
    run(resume_from_checkpoint="latest", **settings)
    assert "is finished" in capsys.readouterr().out
    run(resume_from_checkpoint="latest", **{**settings, "early_stopping_patience": 3})
    assert [row["epoch"] for row in rows(folder)] == ["1", "2", "3", "4"]


def test_best_pipeline_is_that_of_the_best_epoch(run):
    """Trained at a rate that destroys it, the run presses nowhere from the first epoch on: no later one is better."""
    metric = "val/press_accuracy"
    folder = run(lr=5.0, num_epochs=3, checkpointing_epochs=1, early_stopping_patience=5, early_stopping_metric=metric)
    values = [float(row[metric]) for row in rows(folder)]
    best = values.index(max(values)) + 1
    assert best < 3
    kept = load_file(folder / "pipeline-best" / "denoiser" / "diffusion_pytorch_model.safetensors")
    expected = load_file(folder / f"checkpoint-{3 * best:06d}" / "ema.safetensors")
    assert kept.keys() == expected.keys()
    assert all(torch.equal(kept[name], expected[name]) for name in expected)


def add(tally: Tally, *numbers: float) -> None:
    """Add batches that each end in an update, whose loss is a tenth of their gradient norm."""
    for number in numbers:
        tally.add(torch.tensor(number / 10), torch.tensor(number))


def test_tally_counts_rows_of_skipped_updates_over_epochs():
    tally = Tally()

    def update(*norms: float) -> tuple[int, int, int]:
        add(tally, *norms)
        tally.look()
        return tally.skipped, tally.skipped_in_a_row, tally.longest_row

    assert update(1.0, math.nan, 2.0) == (1, 0, 1)
    assert update(math.nan) == (2, 1, 1)
    tally.clear()
    assert math.isnan(tally.mean_loss())
    assert update(math.inf, 1.0, math.nan) == (2, 1, 2)
    assert tally.mean_grad_norm() == 1.0
    assert tally.num_updates == 3


def test_tally_means_are_exact_and_of_what_is_finite():
    tally, losses = Tally(), [0.1, math.nan, 1e8, 0.7, math.inf, 0.3]
    for count, loss in enumerate(losses):
        tally.add(torch.tensor(loss), torch.tensor(loss) if count % 2 else None)
        if count == 2:
            tally.look()
    as_float32 = [torch.tensor(loss).item() for loss in losses]
    finite = [loss for loss in as_float32 if math.isfinite(loss)]
    assert tally.mean_loss() == math.fsum(finite) / 4
    assert tally.mean_loss(last=3) == math.fsum(finite[-2:]) / 2
    assert (tally.num_updates, tally.skipped, tally.mean_grad_norm()) == (3, 1, math.fsum(finite[-2:]) / 2)


def test_tally_goes_on_from_its_state():
    tally, other = Tally(), Tally()
    for loss, norm in ((0.1, None), (0.7, math.nan), (0.2, 0.3)):
        tally.add(torch.tensor(loss), norm if norm is None else torch.tensor(norm))
    state = tally.state(lambda losses: torch.cat([losses, losses + 1]), num_processes=2, device=torch.device("cpu"))
    assert torch.equal(state["losses"], torch.tensor([[0.1, 0.7, 0.2], [1.1, 1.7, 1.2]]))
    torch.testing.assert_close(state["grad_norms"], torch.tensor([math.nan, 0.3]), rtol=0, atol=0, equal_nan=True)
    other.load_state(state, rank=1, skipped_in_a_row=0)
    assert other.mean_loss() == pytest.approx(4 / 3)
    assert (other.skipped, other.num_updates, other.mean_grad_norm()) == (1, 2, tally.mean_grad_norm())
    assert (other.skipped_in_a_row, other.longest_row) == (0, 0)


def test_update_of_a_long_epoch_takes_a_few_bytes():
    """As on a GPU, which is looked at every ten updates."""
    tally = Tally()
    tracemalloc.start()
    for count in range(20_000):
        add(tally, 1.0)
        if count % 10 == 0:
            tally.look()
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert tally.mean_loss() == pytest.approx(0.1)
    assert grown < 20_000 * 16
