"""A large CSV log imported, beside a pandas loop that does the same to one file, each in a process of its own.

    python benchmarks/recordings.py --size_mb 1000

The log is written first: people who move, click, and rest for seconds, at 125 Hz, a row an event. The loop holds the file in
memory, and does what the import does to such rows, without the counts, the split and the traps of real files: equal times, long
gaps, rests, resampling with numpy.interp, windows in which something changes.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from action_ddim.evaluation.tables import Table

RATE, SEQ_LEN, MAX_GAP_S = 125.0, 250, 2.0
SCREEN = (1920, 1080)
SESSION_ROWS = 20_000
PEAK = 'print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))'
OURS = f"""
import sys
from action_ddim.cli.main import main
source, out, *words = sys.argv[1:]
assert main(["import", source, "--user_column", "user", "--out", out, *words]) == 0
{PEAK}
"""
PANDAS = f"""
import sys
import numpy as np, pandas as pd
source, out = sys.argv[1:]
windows = []
for user, rows in pd.read_csv(source).groupby("user", sort=False):
    rows = rows.drop_duplicates("time", keep="last")
    for _, piece in rows.groupby((rows["time"].diff() > {1000 * MAX_GAP_S}).cumsum()):
        time = piece["time"].to_numpy() / 1000
        steps = np.arange(time[0], time[-1] + 1e-9, {1 / RATE})
        row = np.searchsorted(time, steps + 1e-6, side="right") - 1
        rests = np.append(np.diff(time) > 0.04, False)
        times, places = time, piece[["x", "y"]].to_numpy() / {SCREEN}
        ends = time[1:][rests[:-1]] - 0.008  # a place is held until an interval before the next row
        times = np.concatenate([time, ends])
        places = np.concatenate([places, places[:-1][rests[:-1]]])
        order = np.argsort(times, kind="stable")
        x, y = (np.interp(steps, times[order], column[order]) for column in places.T)
        actions = np.stack([x, y, piece["press"].to_numpy()[row]], axis=1).astype(np.float32)
        for first in range(0, len(actions) - {SEQ_LEN // 2}, {SEQ_LEN}):
            window = actions[first : first + {SEQ_LEN}]
            window = np.concatenate([window, np.repeat(window[-1:], {SEQ_LEN} - len(window), axis=0)])
            if (window != window[:1]).any():
                windows.append(window)
np.save(out, np.concatenate(windows))
print(len(windows), "windows", file=sys.stderr)
{PEAK}
"""


def write_log(path: Path, size_mb: float, seed: int = 0) -> int:
    """Write the log; return its rows."""
    generator, rows = np.random.default_rng(seed), 0
    with open(path, "w") as file, tqdm(total=int(size_mb * 1e6), unit="B", unit_scale=True, desc="log") as progress:
        file.write("user,time,x,y,press\n")
        while file.tell() < size_mb * 1e6:
            gaps = np.where(generator.random(SESSION_ROWS) < 0.002, generator.integers(100, 4000, SESSION_ROWS), 8)
            gaps[generator.random(SESSION_ROWS) < 0.02] = 0  # rows at the time of the one before
            times = np.cumsum(gaps)
            speed = np.sin(np.arange(SESSION_ROWS) / 40)[:, None] * generator.normal(0, 6, (1, 2)) + generator.normal(
                0, 2, (SESSION_ROWS, 2)
            )
            places = np.abs(np.cumsum(speed, axis=0) % (2 * np.array(SCREEN)) - SCREEN).round().astype(int)
            press = np.arange(SESSION_ROWS) % 700 < 12
            columns = zip(times.tolist(), *places.T.tolist(), press.astype(int).tolist(), strict=True)
            name = f"user{rows // SESSION_ROWS}"
            before = file.tell()
            file.write("".join(f"{name},{t},{x},{y},{p}\n" for t, x, y, p in columns))
            progress.update(file.tell() - before)
            rows += SESSION_ROWS
    return rows


def measure(label: str, code: str, words: list[str], rows: int) -> tuple[str, ...]:
    """Run a process to its end; return a row of the table."""
    started = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if result.returncode:
        return (label, f"failed: {(result.stderr.splitlines() or ['killed'])[-1][:60]}", "", "")
    peak = int(result.stdout.split()[-1]) / 1024
    return (label, f"{seconds:.1f}", f"{rows / seconds / 1e6:.2f}", f"{peak:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size_mb", type=float, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        log = Path(folder) / "log.csv"
        rows = write_log(log, args.size_mb)
        screen = ["--screen", "x".join(map(str, SCREEN))]
        measured = (
            measure("action-ddim import --screen 1920x1080", OURS, [str(log), f"{folder}/given", *screen], rows),
            measure("action-ddim import, the screen found", OURS, [str(log), f"{folder}/found"], rows),
            measure("pandas loop", PANDAS, [str(log), f"{folder}/pandas.npy"], rows),
        )
        size = log.stat().st_size / 1e6
    print(Table(f"CSV of {size:.0f} MB, {rows:,} rows", ("", "seconds", "million rows/s", "peak MB"), measured).to_text())


if __name__ == "__main__":
    main()
