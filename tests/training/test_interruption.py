"""A run that is asked to stop saves itself, says so in one line, and ends with the code that a shell expects."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from accelerate import Accelerator

from action_ddim.cli.main import train as train_verb
from action_ddim.data.check_record import RECORD_NAME
from action_ddim.data.dataset import ActionDataset
from action_ddim.training import interruption
from action_ddim.training.checkpoint import find_damage, list_checkpoints
from action_ddim.training.interruption import TIME_IS_UP, Interruption, exit_code
from augmentation.gestures import GestureConfig, write_gestures
from tests.conftest import TRAINER, rows, wait_for


def test_signals_leave_a_note_and_the_second_ends_the_process(monkeypatch, fresh_accelerator, capfd):
    accelerator, ended = Accelerator(cpu=True), []
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with Interruption() as wish:
        assert wish.reason(accelerator) == 0
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # by a launcher, a moment later: the same request
        assert wish.reason(accelerator) == signal.SIGTERM
        monkeypatch.setattr(interruption, "ONE_REQUEST_S", 0.0)
        monkeypatch.setattr(os, "kill", lambda *arguments: ended.append(arguments))
        signal.raise_signal(signal.SIGTERM)
        assert ended == [(os.getpid(), signal.SIGTERM)]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.signal(signal.SIGTERM, before) == signal.SIG_DFL
    assert capfd.readouterr().err.count("SIGTERM: the run stops as soon as it can be saved; a second one ends it at once") == 1


def test_time_limit_is_outranked_by_a_signal(fresh_accelerator):
    accelerator = Accelerator(cpu=True)
    with Interruption(max_minutes=1e-9) as wish:
        time.sleep(0.001)
        assert wish.reason(accelerator) == TIME_IS_UP
        os.kill(os.getpid(), signal.SIGINT)
        assert wish.reason(accelerator) == signal.SIGINT
    with Interruption(max_minutes=60) as wish:
        assert wish.reason(accelerator) == 0


def test_outside_the_main_thread_there_are_no_handlers():
    handlers = []

    def enter():
        with Interruption():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]


def test_exit_codes():
    assert [exit_code(reason) for reason in (signal.SIGTERM, signal.SIGINT, TIME_IS_UP)] == [143, 130, 0]


def test_time_limit_ends_the_run_with_what_it_has(run, data, capsys):
    for name in ("train", "val"):
        ActionDataset(data / name).validate()  # or its time is up before it has trained
    folder = run(max_train_time=1e-9, num_epochs=1000)
    assert "the run stops after update 1 (--max_train_time); the last good checkpoint is" in capsys.readouterr().out
    assert [path.name for path in list_checkpoints(folder)] == ["checkpoint-000001"]


@pytest.fixture
def unchecked(tmp_path):
    """A folder of four files that were never checked."""
    write_gestures(GestureConfig(num_sequences=8, sequence_length=20), tmp_path / "unchecked", sequences_per_file=2)
    return tmp_path / "unchecked"


def when_checked(path, action) -> None:
    """Do something when a file is opened for the third time: its header was read, and its digest taken."""
    times = []

    def look(event: str, arguments: tuple) -> None:
        if event == "open" and str(arguments[0]) == str(path):
            times.append(event)
            if len(times) == 3:
                action()

    sys.addaudithook(look)  # for good, but no other test opens the file


def test_signal_while_data_is_checked_ends_it_at_once_and_keeps_what_was_checked(unchecked, flags, capsys, fresh_accelerator):
    names = [path.name for path in sorted(unchecked.glob("*.npy"))]
    assert len(names) == 4
    when_checked(unchecked / names[2], lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert train_verb(flags(data_dir=unchecked)) == 143
    assert capsys.readouterr().out == f"the run stops while {unchecked} is checked (SIGTERM); nothing was trained\n"
    assert not Path(flags()[flags().index("--save_dir") + 1]).exists()
    assert list(json.loads((unchecked / RECORD_NAME).read_text())["files"]) == names[:2]


def test_time_that_is_up_while_data_is_checked_is_no_failure(unchecked, flags, capsys, fresh_accelerator):
    assert train_verb(flags(data_dir=unchecked, max_train_time=1e-9)) == 0
    assert "is checked (--max_train_time); nothing was trained" in capsys.readouterr().out


@pytest.mark.slow
def test_real_signals_locks_and_exit_codes(start, flags, fresh_accelerator, capsys, tmp_path):
    folder, endless = tmp_path / "run", {"num_epochs": 100_000, "plot_epochs": 0}
    first = start(TRAINER, *flags(**endless))
    wait_for(lambda: (folder / "metrics.csv").exists(), first)
    assert train_verb(flags()) == 2
    assert capsys.readouterr().err == (
        f"error: --save_dir {folder} is in use by a run that is at work (process {first.pid});"
        " wait for it, or name another folder\n"
    )
    first.terminate()
    assert first.wait(60) == 143
    newest = list_checkpoints(folder)[-1]
    assert find_damage(newest) is None
    assert f"(SIGTERM); the last good checkpoint is {newest}" in first.output().splitlines()[-1]
    assert "Traceback" not in first.output()

    third = start(TRAINER, *flags(resume_from_checkpoint="latest", **endless))
    wait_for(lambda: f"the run goes on from {newest}" in third.output(), third)
    done = len(rows(folder))
    wait_for(lambda: len(rows(folder)) > done, third)
    third.send_signal(signal.SIGINT)
    assert third.wait(60) == 130
    assert "(SIGINT); the last good checkpoint is" in third.output().splitlines()[-1]

    killed = start(TRAINER, *flags(resume_from_checkpoint="latest", **endless))
    wait_for(lambda: "the run goes on from" in killed.output(), killed)
    killed.kill()
    killed.wait()
    assert train_verb(flags(num_epochs=1)) == 0  # the lock died with its process
    epochs = [row["epoch"] for row in rows(tmp_path / "run.1")]
    assert epochs == [str(epoch) for epoch in range(1, len(epochs) + 1)]
