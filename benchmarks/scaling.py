"""Measure how training speed grows with the size of the batch, the model and the actions, and with processes.

    python benchmarks/scaling.py            # the tables, and scaling.png
    python benchmarks/scaling.py --quick    # two values of each size, one round of three steps, to see that it works

A row is this trainer's whole step, from fetching the batch to the optimizer, at the documented full-training flags but for
one size. The exponent of a size is the slope of log time over log size, once over all of its values and once over the
upper half of them, where what does not grow counts for less: 1 is linear, 2 quadratic. For attention alone, which is
quadratic in tokens, the layer's product is measured by itself too. Two processes share the machine through gloo, each with
the whole batch or with half of it; what they spend in communication is the time that a step is longer than one whose
gradients are not summed.

Everything is measured in several rounds, in turn and in processes of their own, and the fastest round's median step is shown:
what else the machine does can only add. Sizes run on the CPU or the first GPU, several processes always on the CPU.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from action_ddim.training.config import TrainConfig
from augmentation.gestures import GestureConfig, write_gestures

BASE = {"batch_size": 64, "d_model": 64, "num_layers": 3, "length": 250, "patch_size": TrainConfig.patch_size}
SIZES: dict[str, tuple[int, ...]] = {
    "batch_size": (1, 4, 16, 64, 256),
    "d_model": (64, 128, 256, 512),
    "num_layers": (3, 6, 12),
    "length": (250, 500, 1000, 2000, 4000),
    "patch_size": (1, 2, 5, 7, 10),
    "tokens": (36, 143, 572, 2286),  # of attention alone; those of 250 to 4000 steps and more at 7 steps a token
}
# Corners that would take seconds a step are measured on smaller batches; sequences/s are per sequence all the same.
SMALLER_BATCH = {("length", 4000): 16, ("length", 2000): 32, ("d_model", 512): 16, ("d_model", 256): 32, ("patch_size", 1): 32}
ATTENTION_BATCH = 4
PROCESSES = ((1, 0, 64), (1, 1, 64), (2, 1, 64), (2, 1, 32))  # how many, threads of each (0: all), batch of each
ACCELERATE_CONFIG = Path(__file__).parents[1] / "accelerate_configs" / "multi_cpu.yaml"


class Row(NamedTuple):
    """One measurement: what was varied, to which value, and the time a step and a sequence took."""

    size: str
    value: int
    batch_size: int
    step_ms: float
    silent_ms: float  # a step whose gradients are not summed over the processes

    @property
    def sequence_ms(self) -> float:
        return self.step_ms / self.batch_size


def settings_of(size: str, value: int) -> dict[str, int]:
    """Return the settings of a row: those of the full training but for one."""
    settings = {**BASE, "batch_size": SMALLER_BATCH.get((size, value), BASE["batch_size"])}
    return settings | ({size: value} if size in BASE else {})


def prepare_training(settings: dict[str, int], folder: str, device: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Build a run; return a step of it, and one whose gradients are not summed over the processes."""
    from accelerate.utils import set_seed

    from action_ddim.training.loader import open_data
    from action_ddim.training.loop import batch_loss, training_step
    from action_ddim.training.run import build, make_accelerator
    from action_ddim.training.run_folder import RunFolder

    model: dict[str, Any] = {name: value for name, value in settings.items() if name != "length"}  # the data has that
    flags: dict[str, Any] = {"data_dir": folder, "val_data_dir": folder, "save_dir": f"{folder}/run", "report_to": ("none",)}
    config = TrainConfig(**flags, **model, nhead=4, lr=2e-4, num_epochs=1000, device=device)
    run = build(config, make_accelerator(config), RunFolder(config.save_dir), *open_data(config))
    run.denoiser.train()
    set_seed(0)
    batches = (actions for _ in range(sys.maxsize) for actions in run.loader if len(actions) == config.batch_size)

    def silent() -> None:
        with run.accelerator.no_sync(run.denoiser):
            run.accelerator.backward(batch_loss(run, next(batches), run.update))
        run.accelerator.clip_grad_norm_(run.denoiser.parameters(), config.max_grad_norm)
        run.optimizer.step()
        run.optimizer.zero_grad()
        run.lr_scheduler.step()
        run.ema.step()
        run.update += 1

    return lambda: void(training_step(run, next(batches), run.update)), silent


def prepare_attention(tokens: int, device: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return attention's product alone, forward and backward, at the full training's width and heads."""
    device = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    shape = (ATTENTION_BATCH, 4, tokens, BASE["d_model"] // 4)  # batch, heads, tokens, width of a head
    q, k, v = (torch.randn(shape, device=device, requires_grad=True) for _ in range(3))

    def step() -> None:
        F.scaled_dot_product_attention(q, k, v).sum().backward()

    return step, step


def void(_: Any) -> None:
    """Discard a result."""


def time_steps(step: Callable[[], None], warmup: int, count: int) -> float:
    """Return the median time of a step in ms."""
    synchronize: Callable[[], None] = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    times = []
    for _ in range(warmup + count):
        synchronize()
        started = time.perf_counter()
        step()
        synchronize()
        times.append(time.perf_counter() - started)
    return 1000 * median(times[warmup:])


def run_worker(args: argparse.Namespace) -> None:
    """Measure rows, one after the other, and print their times as JSON on the first process."""
    warmup, count = (1, 3) if args.quick else (args.warmup, args.steps)
    results = []
    for number, settings in enumerate(json.loads(args.settings)):
        if "tokens" in settings:
            step, silent = prepare_attention(settings["tokens"], args.device)
        else:
            step, silent = prepare_training(settings, f"{args.worker}/{number}", args.device)
        step_ms = time_steps(step, warmup, count)
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        results.append((step_ms, time_steps(silent, 1, count) if several else step_ms))
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(results), flush=True)


def call_worker(args: argparse.Namespace, settings: list[dict[str, int]], processes: int, threads: int) -> list[list[float]]:
    """Run this script as the worker of some rows, on data of their own; return the times that it measured."""
    command = [sys.executable]
    if processes > 1:
        launcher = ["-m", "accelerate.commands.launch", "--config_file", str(ACCELERATE_CONFIG)]
        command += [*launcher, "--num_processes", str(processes)]
    with tempfile.TemporaryDirectory() as folder:
        for number, row in enumerate(settings):
            if "length" in row:
                count = 4 * row["batch_size"] * processes
                write_gestures(GestureConfig(num_sequences=count, sequence_length=row["length"]), f"{folder}/{number}")
        command += [__file__, *sys.argv[1:], "--worker", folder, "--settings", json.dumps(settings)]
        command += ["--device", "cpu"] if processes > 1 else []
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{result.stderr}\nthe rows {settings} ended with exit code {result.returncode}")
    return json.loads(result.stdout.splitlines()[-1])


def measure_size(args: argparse.Namespace, size: str) -> list[Row]:
    """Measure all values of a size on one process."""
    values = SIZES[size][: 2 if args.quick else None]
    settings = [{"tokens": value} if size == "tokens" else settings_of(size, value) for value in values]
    times = call_worker(args, settings, 1, args.threads)
    batches = [row.get("batch_size", ATTENTION_BATCH) for row in settings]
    return [Row(size, *row, *measured) for *row, measured in zip(values, batches, times, strict=True)]


def measure_processes(args: argparse.Namespace) -> list[Row]:
    """Measure one process on all cores, one on one core, and two on one core each, with the whole and with half a batch."""
    rows = []
    for processes, threads, batch in PROCESSES:
        ((step_ms, silent_ms),) = call_worker(args, [{**BASE, "batch_size": batch}], processes, threads or args.threads)
        rows.append(Row("processes", processes, batch * processes, step_ms, silent_ms))
    return rows


def fastest(rounds: list[list[Row]]) -> list[Row]:
    """Return of each row the round in which its step was fastest."""
    return [min(rows, key=lambda row: row.step_ms) for rows in zip(*rounds, strict=True)]


def exponents(rows: list[Row]) -> tuple[float, float]:
    """Return the slope of log time over log size, over all rows and over the upper half of them (two at least)."""
    value = np.log([row.value for row in rows])
    elapsed = np.log([row.step_ms if row.size == "batch_size" else row.sequence_ms for row in rows])
    upper = min(len(rows) - 2, len(rows) // 2)
    return float(np.polyfit(value, elapsed, 1)[0]), float(np.polyfit(value[upper:], elapsed[upper:], 1)[0])


def format_tables(rows: list[Row], processes: list[Row], threads: int) -> str:
    """Return a table of the sizes with their exponents, and one of the processes with their share of communication."""
    line = "{:<12}{:>8}{:>8}{:>12}{:>14}{:>16}{:>16}"
    lines = [line.format("size", "value", "batch", "ms/step", "sequences/s", "exponent: all", "upper half")]
    for size in dict.fromkeys(row.size for row in rows):
        group = [row for row in rows if row.size == size]
        for row in group:
            slopes = [f"{slope:.2f}" for slope in exponents(group)] if row is group[-1] else ["", ""]
            speed = f"{1000 / row.sequence_ms:.1f}"
            lines.append(line.format(size, row.value, row.batch_size, f"{row.step_ms:.2f}", speed, *slopes))
    lines += ["", "{:<44}{:>12}{:>14}{:>10}{:>18}".format("", "ms/step", "sequences/s", "gain", "communication")]
    for (count, cores, batch), row in zip(PROCESSES, processes, strict=True):
        label = f"{count} processes x {cores or threads} threads, batch {batch} each"
        gain = processes[0].sequence_ms / row.sequence_ms
        share = f"{100 * max(0.0, 1 - row.silent_ms / row.step_ms):.1f} %" if row.value > 1 else ""
        lines.append(f"{label:<44}{row.step_ms:>12.2f}{1000 / row.sequence_ms:>14.1f}{gain:>9.2f}x{share:>18}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {threads} threads"
    settings = ", ".join(f"{name} {value}" for name, value in BASE.items())
    lines += ["", f"all else as {settings}; {device}, torch {torch.__version__}"]
    lines += ["exponent: slope of log time over log size: of a step over the batch, of a sequence over all else"]
    return "\n".join(lines)


def draw(rows: list[Row], path: str) -> None:
    """Draw time over size, each size a panel, with the slope of its upper half."""
    from matplotlib.figure import Figure

    from action_ddim.evaluation.plots import scale_logarithmically

    sizes = list(dict.fromkeys(row.size for row in rows))
    figure = Figure(figsize=(12, 7), layout="constrained")
    for axes, size in zip(figure.subplots(2, 3).flat, sizes, strict=False):
        group = [row for row in rows if row.size == size]
        value = np.array([row.value for row in group])
        elapsed = np.array([row.step_ms if size == "batch_size" else row.sequence_ms for row in group])
        slope = exponents(group)[1]
        axes.loglog(value, elapsed, "o-", color="tab:blue", label="measured")
        axes.loglog(value, elapsed[-1] * (value / value[-1]) ** slope, "--", color="tab:orange", label=f"slope {slope:.2f}")
        axes.set(xlabel=size, ylabel="ms a step" if size == "batch_size" else "ms a sequence", xticks=value, xticklabels=value)
        axes.xaxis.minorticks_off()
        scale_logarithmically(axes)
        axes.legend()
    figure.suptitle("Time of a training step; tokens: attention's product alone")
    figure.savefig(path, dpi=100)


def parse_args() -> argparse.Namespace:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], formatter_class=formatter)
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=[*SIZES], help="what is varied")
    parser.add_argument("--rounds", type=int, default=2, help="times that everything is measured, in turn")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of a row in a round")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads of one process")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto takes a CUDA GPU where there is one")
    parser.add_argument("--figure", default="scaling.png", help="where to draw")
    parser.add_argument("--quick", action="store_true", help="two values of each size, one round of three steps")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--settings", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if min(args.rounds, args.steps, args.threads, args.warmup + 1) < 1:
        parser.error("give at least 1 round, step and thread, and no negative warm-up")
    return args


def main() -> None:
    args = parse_args()
    if args.worker:
        return run_worker(args)
    sizes: list[list[Row]] = []
    processes: list[list[Row]] = []
    for _ in tqdm(range(1 if args.quick else args.rounds), unit="round", disable=None):
        sizes.append([row for size in args.sizes for row in measure_size(args, size)])
        processes.append(measure_processes(args))
    rows = fastest(sizes)
    print(format_tables(rows, fastest(processes), args.threads))
    if rows:
        draw(rows, args.figure)
        print(f"figure: {args.figure}")


if __name__ == "__main__":
    main()
