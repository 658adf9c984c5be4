"""Kill a training run with SIGKILL at random moments, resume it each time, and say what was lost.

    python benchmarks/kill.py --kills 200

Each attempt is a process of its own (forked from one that has imported torch already) that runs `train` with
`--resume_from_checkpoint latest`. Half of the kills come at a random moment, half in the middle of writing a checkpoint or
a pipeline. After each one, everything on disk has to be whole: every checkpoint verifies, `pipeline/` and `pipeline-best/`
load, metrics.csv has no half row, and the newest checkpoint is at most `--checkpointing_steps` updates behind. Every run that
reaches its end has to be, bit for bit, the run that was never killed. Exit code 1 where any of this fails.
"""

import argparse
import contextlib
import csv
import json
import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

import torch
from safetensors.numpy import load_file
from torch.optim.optimizer import register_optimizer_step_post_hook
from tqdm.auto import tqdm

import action_ddim.training.loop  # noqa: F401  (what attempts need is imported once, here)
from action_ddim.cli.main import train
from action_ddim.training.checkpoint import PARTIAL, checkpoint_name, find_damage, list_checkpoints, update_of
from augmentation.gestures import GestureConfig, write_gestures

NUM_EPOCHS, NUM_SEQUENCES, BATCH_SIZE = 20, 24, 4
LONGEST_WAIT_S = 1.5  # before a kill; an attempt starts in a third of it
WEIGHTS = "denoiser/diffusion_pytorch_model.safetensors"
MIDDLE_OF_WRITING_S = 0.02
STUCK_S = 120  # an attempt that neither writes nor ends for so long hangs


class Attempts:
    """Runs of one small training in processes of their own, in one run folder after another."""

    def __init__(self, folder: Path, interval: int):
        self.folder, self.interval = folder, interval
        self.steps = mmap.mmap(-1, 8)  # optimizer steps of the attempt, shared with it
        write_gestures(GestureConfig(num_sequences=NUM_SEQUENCES, sequence_length=20), folder / "train")
        write_gestures(GestureConfig(num_sequences=4, sequence_length=20, seed=1), folder / "val")

    def start(self, run: Path) -> int:
        """Fork a process that trains in a run folder, and return its id."""
        self.steps[:] = struct.pack("q", 0)
        child = os.fork()
        if child == 0:
            code = 70
            try:
                log = os.open(self.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(log, 1)
                os.dup2(log, 2)
                register_optimizer_step_post_hook(self._count)
                code = train(self._flags(run))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        return child

    def _count(self, *_) -> None:
        self.steps[:] = struct.pack("q", self.num_steps + 1)

    @property
    def num_steps(self) -> int:
        return struct.unpack("q", self.steps[:])[0]

    def _flags(self, run: Path) -> list[str]:
        settings = {
            **{"data_dir": self.folder / "train", "val_data_dir": self.folder / "val", "save_dir": run},
            **{"d_model": 16, "num_layers": 1, "nhead": 2, "patch_size": 4, "dropout": 0.1, "device": "cpu"},
            **{"batch_size": BATCH_SIZE, "gradient_accumulation_steps": 2, "num_epochs": NUM_EPOCHS, "lr": 1e-4},
            **{"checkpointing_steps": self.interval, "checkpointing_epochs": 4, "checkpoints_total_limit": 3},
            **{"plot_epochs": 0, "report_to": "none", "early_stopping_patience": NUM_EPOCHS},
            **{"resume_from_checkpoint": "latest"},
        }
        return [word for name, value in settings.items() for word in (f"--{name}", str(value))]

    def kill(self, child: int, run: Path, rng: random.Random) -> int | None:
        """Kill an attempt at a random moment; return the exit code of one that came to an end before, else None."""
        in_writing, until = rng.random() < 0.5, time.monotonic() + rng.uniform(0, LONGEST_WAIT_S)
        while time.monotonic() < until or (in_writing and not (run / PARTIAL).exists()):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > until + STUCK_S:
                os.kill(child, signal.SIGKILL)
                raise SystemExit(f"an attempt hangs, process {child}:\n{(self.folder / 'log.txt').read_text()[-2000:]}")
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, MIDDLE_OF_WRITING_S))
        os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return None if code == -signal.SIGKILL else code


def newest(run: Path) -> int:
    """Return the updates of the newest checkpoint, 0 without one."""
    return max(map(update_of, list_checkpoints(run)), default=0)


def find_faults(run: Path, reached: int, interval: int) -> list[str]:
    """Say what is not whole in a run folder whose run had reached an update when it was killed."""
    faults = [f"{path.name}: {damage}" for path in list_checkpoints(run) if (damage := find_damage(path))]
    if reached - newest(run) > interval:
        faults.append(f"killed at update {reached}, the newest checkpoint is after {newest(run)}")
    if newest(run) and not (run / "pipeline").exists():
        faults.append("pipeline: missing, though one was there")
    for name in ("pipeline", "pipeline-best"):
        if (run / name).exists():
            try:
                json.loads((run / name / "model_index.json").read_text())
                json.loads((run / name / "denoiser" / "config.json").read_text())
                json.loads((run / name / "scheduler" / "scheduler_config.json").read_text())
                load_file(run / name / WEIGHTS)
            except Exception as error:
                faults.append(f"{name}: {error}")
    if any(None in row or None in row.values() for row in read_metrics(run)):
        faults.append("metrics.csv has a row that is not whole")
    return faults


def read_metrics(run: Path) -> list[dict]:
    with contextlib.suppress(FileNotFoundError), open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))
    return []


def outcome(run: Path) -> dict:
    """Return what two runs that are the same have in common: all but times."""
    manifest = json.loads((run / checkpoint_name(newest(run)) / "manifest.json").read_text())
    weights = [(run / name / WEIGHTS).read_bytes() for name in ("pipeline", "pipeline-best")]
    return {
        "checkpoint": {name: entry for name, entry in manifest.items() if name != "metrics.csv"},
        "metrics": [{name: value for name, value in row.items() if "second" not in name} for row in read_metrics(run)],
        "pipelines": weights,
    }


def run_to_the_end(attempts: Attempts, run: Path) -> dict:
    """Train without a kill, and return the outcome."""
    code = os.waitstatus_to_exitcode(os.waitpid(attempts.start(run), 0)[1])
    if code:
        raise SystemExit(f"a run that was not killed ended with code {code}:\n{(attempts.folder / 'log.txt').read_text()}")
    return outcome(run)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--checkpointing_steps", type=int, default=2, help="updates between checkpoints (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # threads do not survive a fork
    tqdm.set_lock(threading.RLock())  # its own is shared over forks, and stays locked where one is killed that holds it
    rng, started = random.Random(options.seed), time.monotonic()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="action_ddim_kill_") as folder, tqdm(total=options.kills, unit="kill") as bar:
        attempts = Attempts(Path(folder), options.checkpointing_steps)
        expected = run_to_the_end(attempts, attempts.folder / "never_killed")
        run = attempts.folder / "run_0"
        while counts["kills"] < options.kills:
            before = newest(run)
            code = attempts.kill(attempts.start(run), run, rng)
            if code is not None:
                counts["attempts that failed"] += code != 0
                if code:
                    print((attempts.folder / "log.txt").read_text()[-2000:])
                counts["runs finished"] += 1
                counts["runs that differ"] += outcome(run) != expected if code == 0 else 0
                run = attempts.folder / f"run_{counts['runs finished']}"
                continue
            counts["kills"] += 1
            bar.update()
            counts["kills while writing"] += (run / PARTIAL).exists()
            reached = before + attempts.num_steps
            counts["updates lost, at most"] = max(counts["updates lost, at most"], reached - newest(run))
            for fault in find_faults(run, reached, options.checkpointing_steps):
                counts["faults"] += 1
                print(f"kill {counts['kills']}: {fault}")
        counts["runs that differ"] += run_to_the_end(attempts, run) != expected
        counts["runs finished"] += 1
    bad = counts["faults"] + counts["attempts that failed"] + counts["runs that differ"]
    names = ("kills", "kills while writing", "faults", "attempts that failed", "updates lost, at most", "runs finished")
    report = {name: counts[name] for name in (*names, "runs that differ")}
    print(json.dumps({**report, "seconds": round(time.monotonic() - started)}))
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
