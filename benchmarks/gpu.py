"""Run the documented GPU test and full training on a CUDA GPU, with and without bf16 and compile, and print what came out.

    python benchmarks/gpu.py                                  # says "no GPU", and exits 0, where there is none
    python benchmarks/gpu.py --device cpu --num_epochs 1      # the same rows on the CPU, to see that the script works

A row is a training in a process of its own: wall time of the whole of it, without the imports but with validation, plots and
checkpoints; training sequences a second in the last epoch; peak memory; the metrics of the last epoch; and the time of a plan,
one action drawn in 10 DDIM steps by the pipeline that was saved, as it is and compiled to CUDA graphs. Goals on one H200: a
full training under 30 s, a plan under 5 ms.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm.auto import tqdm

from action_ddim.training.config import TrainConfig
from augmentation.gestures import GestureConfig, write_gestures

GOAL_SECONDS, GOAL_PLAN_MS, PLAN_STEPS, PLANS = 30, 5, 10, 30
TARGETS = "targets: mse < 0.01, coord_mse < 0.005, press > 0.9, SNR > 20 dB"
# The commands of docs/training.md, and how many sequences they train and validate on.
FULL: dict[str, Any] = {"batch_size": 64, "num_epochs": 50, "lr": 2e-4, "d_model": 64, "num_layers": 3, "nhead": 4}
TEST: dict[str, Any] = {"batch_size": 16, "num_epochs": 5, "lr": 2e-4, "d_model": 128, "num_layers": 4, "nhead": 4}
DATA = {"mini": (10, 5), "full": (5000, 1000)}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "GPU test": ("mini", TEST),
    "full training": ("full", FULL),
    "full training, bf16": ("full", {**FULL, "mixed_precision": "bf16"}),
    "full training, compile": ("full", {**FULL, "compile": True}),
    "full training, bf16 and compile": ("full", {**FULL, "mixed_precision": "bf16", "compile": True}),
}


def train_config(name: str, folder: Path, args: argparse.Namespace) -> TrainConfig:
    data, flags = ROWS[name]
    epochs = min(args.num_epochs or sys.maxsize, flags["num_epochs"])
    paths = {"data_dir": str(folder / data / "train"), "val_data_dir": str(folder / data / "val")}
    save_dir = str(folder / "runs" / str([*ROWS].index(name)))
    return TrainConfig(
        **{**flags, **paths, "num_epochs": epochs, "save_dir": save_dir, "device": args.device}, report_to=("none",)
    )


def peak_memory_mb(args: argparse.Namespace) -> float:
    if args.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    # ru_maxrss is in bytes on macOS, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def plan_ms(pipeline_folder: Path, device: str, compiled: bool) -> float:
    """Return the median time in ms to draw one action in 10 steps and have it on the CPU; compiling is not timed."""
    from action_ddim.pretrained import load_pipeline

    pipeline = load_pipeline(str(pipeline_folder), device, compiled=compiled)
    times = []
    for number in range(5 + PLANS):
        generator = torch.Generator(device).manual_seed(number)
        started = time.perf_counter()
        pipeline(1, num_inference_steps=PLAN_STEPS, generator=generator)  # an array: it waits for the device
        times.append(time.perf_counter() - started)
    return 1000 * median(times[5:])


def run_worker(args: argparse.Namespace) -> None:
    """Train one row, and print its measurements as JSON."""
    from action_ddim.training.loop import train

    config = train_config(args.worker, Path(args.folder), args)
    started = time.perf_counter()
    metrics = train(config)
    result = {"seconds": time.perf_counter() - started, "peak": peak_memory_mb(args), "metrics": metrics}
    for compiled, key in ((False, "plan_ms"), (True, "compiled_plan_ms")):
        result[key] = plan_ms(Path(config.save_dir) / "pipeline", args.device, compiled)
    print(json.dumps(result), flush=True)


def call_worker(name: str, folder: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run this script as the worker of one row and return its measurements, or the error that it ended with."""
    words = ["--worker", name, "--folder", folder, "--device", args.device]
    words += ["--num_epochs", str(args.num_epochs)] if args.num_epochs else []
    result = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
    if result.returncode:
        return {"error": (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]}
    return json.loads(result.stdout.splitlines()[-1])


def format_table(results: dict[str, dict[str, Any]], args: argparse.Namespace) -> str:
    """Return a table of the rows, and whether the goals were met."""
    line = "{:<34}{:>10}{:>14}{:>10}{:>10}{:>11}{:>8}{:>9}{:>10}{:>10}"
    lines = [line.format("", "seconds", "sequences/s", "peak MB", "mse", "coord_mse", "press", "SNR dB", "plan ms", "compiled")]
    for name, row in results.items():
        if "error" in row:
            lines.append(f"{name:<34}failed: {row['error']}")
            continue
        value = row["metrics"]
        formats = (
            ("train/sequences_per_second", ".0f"),
            ("val/mse", ".5f"),
            ("val/coord_mse", ".5f"),
            ("val/press_accuracy", ".4f"),
        )
        speed, *quality = (format(value[key], form) for key, form in formats)
        snr, *plans = f"{value['val/mean_snr_db']:.1f}", f"{row['plan_ms']:.2f}", f"{row['compiled_plan_ms']:.2f}"
        lines.append(line.format(name, f"{row['seconds']:.1f}", speed, f"{row['peak']:.0f}", *quality, snr, *plans))
    trained = [row for name, row in results.items() if name != "GPU test" and "error" not in row]
    if args.device == "cuda" and trained and not args.num_epochs:
        for key, goal, what in (
            ("seconds", GOAL_SECONDS, "full training"),
            ("plan_ms", GOAL_PLAN_MS, f"{PLAN_STEPS}-step plan"),
            ("compiled_plan_ms", GOAL_PLAN_MS, f"{PLAN_STEPS}-step plan, compiled"),
        ):
            best = min(row[key] for row in trained)
            unit = "s" if key == "seconds" else "ms"
            lines.append(f"{what} under {goal} {unit}: {'met' if best < goal else 'missed'}, {best:.1f} {unit} at best")
    device = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    memory = "allocated on the GPU" if args.device == "cuda" else "resident"
    return "\n".join([*lines, f"{TARGETS}; peak MB: {memory}; {device}, torch {torch.__version__}"])


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[*ROWS], metavar="ROW", help=f"from: {'; '.join(ROWS)}")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to see that the script works")
    parser.add_argument("--num_epochs", type=int, help="at most so many; by default those of the documentation")
    parser.add_argument("--worker", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.num_epochs is not None and args.num_epochs < 1:
        parser.error("give at least one epoch")
    return args


def main() -> int:
    args = parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("no GPU")
        return 0
    if args.worker:
        run_worker(args)
        return 0
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for data in {ROWS[name][0] for name in args.rows}:
            for seed, (split, count) in enumerate(zip(("train", "val"), DATA[data], strict=True)):
                write_gestures(GestureConfig(num_sequences=count, seed=seed), Path(folder) / data / split)
        for name in tqdm(args.rows, unit="row", disable=None):
            results[name] = call_worker(name, folder, args)
    print(format_table(results, args))
    return int(any("error" in row for row in results.values()))


if __name__ == "__main__":
    sys.exit(main())
