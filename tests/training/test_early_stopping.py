"""Early stopping, and the skipped updates of a tally."""

import math
import os
import signal
import tracemalloc

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from action_ddim.errors import RunStopped
from action_ddim.evaluation.model_card import updates_of
from action_ddim.training.early_stopping import EarlyStopping
from action_ddim.training.tally import Tally
from tests.conftest import rows
from tests.faults import after_steps, not_finite


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
        ([math.nan, 1, math.nan, 1, math.nan, 0], {"every": 2}, (4, 2)),  # only every other epoch says anything
        ([math.nan, math.nan, math.nan, 1], {"every": 4}, (None, 4)),
    ],
)
def test_when_it_stops(values, changes, expected):
    assert stops_after(values, **changes) == expected


@pytest.mark.slow
def test_realism_stops_a_run_at_the_epochs_that_look_at_draws(run, capsys):
    """Draws that stay as they are: looked at after epochs 2, 4 and 6, a patience of 3 is at its end after the last of them."""
    settings = {"lr": 1e-30, "ema_decay": 0.0, "num_epochs": 9, "num_train_timesteps": 20, "eval_sequences": 2}
    stopping = {"early_stopping_patience": 3, "early_stopping_metric": "val/realism/type_distance"}
    folder = run(**settings, **stopping, plot_epochs=2)
    assert [row["epoch"] for row in rows(folder)] == list("123456")
    assert "val/realism/type_distance has not improved for 3 epochs; the best was" in capsys.readouterr().out
    assert updates_of(folder / "pipeline-best") == 6


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
    card = ModelCard.load(folder / "pipeline-best" / "README.md")
    measured = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert measured["mse"] == pytest.approx(float(rows(folder)[best - 1]["val/mse"]), abs=1e-6)
    assert measured["mse"] != pytest.approx(float(rows(folder)[-1]["val/mse"]), abs=1e-6)
    assert f"{3 * best} of 9 updates" in card.text


@pytest.mark.slow
def test_card_of_the_best_is_of_its_own_epoch_also_while_it_is_under_way(run):
    """Each epoch is better than the one before, and is drawn: no figure of another epoch stands in the card."""
    folder = run(lr=1e-3, num_epochs=2, early_stopping_patience=5, plot_epochs=1)
    table, text = rows(folder), (folder / "pipeline-best" / "README.md").read_text()
    assert float(table[1]["val/loss"]) < float(table[0]["val/loss"])
    assert f"| mse | {float(table[1]['val/mse']):.4g} |" in text
    assert "6 of 6 updates" in text
    assert not (folder / "pipeline-best" / "reconstructions.png").exists()
    assert (folder / "pipeline" / "reconstructions.png").exists()


def test_best_pipeline_of_a_later_epoch_is_set_aside(run, capsys):
    """Each epoch is better than the one before; a run goes back from the third to the first."""
    settings = {"lr": 1e-3, "num_epochs": 3, "checkpointing_epochs": 1, "early_stopping_patience": 5}
    folder = run(**settings)
    assert updates_of(folder / "pipeline-best") == 9
    run(resume_from_checkpoint="latest", **{**settings, "num_epochs": 4})
    assert "set aside" not in capsys.readouterr().out
    assert updates_of(folder / "pipeline-best") == 12
    latest = (folder / "pipeline-best" / "README.md").read_bytes()
    with after_steps({1: lambda: os.kill(os.getpid(), signal.SIGTERM)}), pytest.raises(RunStopped):
        run(resume_from_checkpoint="checkpoint-000003", **settings)
    output = capsys.readouterr().out
    assert f"the best pipeline is a later one and set aside as {folder / 'aside-pipeline-best'}\n" in output
    assert "the best epoch so far is 1, whose weights are kept no more" in output
    assert not (folder / "pipeline-best").exists()
    assert (folder / "aside-pipeline-best" / "README.md").read_bytes() == latest
    run(resume_from_checkpoint="latest", **settings)
    assert updates_of(folder / "pipeline-best") == 9


def test_run_whose_best_weights_are_gone_names_no_place_for_them(run, capsys):
    settings = {"lr": 1e-3, "num_epochs": 4, "checkpointing_epochs": 1}
    folder = run(early_stopping_patience=2, **settings)
    run(resume_from_checkpoint="checkpoint-000003", early_stopping_patience=2, early_stopping_min_delta=100, **settings)
    output = capsys.readouterr().out
    assert "val/loss has not improved for 2 epochs; the best was" in output
    assert output.count("after epoch 1\n") == 1
    assert not (folder / "pipeline-best").exists()


@pytest.mark.slow
def test_metric_that_is_never_a_number_ends_the_run_in_one_line(run, capsys):
    settings = {"num_epochs": 9, "early_stopping_patience": 2, "plot_epochs": 1}
    with not_finite(lambda batch: True, training=False):
        folder = run(**settings)
    said = "val/loss was no finite number in 2 epochs, so that none of them is the best"
    assert capsys.readouterr().out.splitlines().count(said) == 1
    assert [row["val/loss"] for row in rows(folder)] == ["nan", "nan"]
    assert not (folder / "pipeline-best").exists()
    assert (folder / "checkpoint-000006").is_dir()


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
