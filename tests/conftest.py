"""Small data sets, small runs, and the real recordings where they lie at hand."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from action_ddim import ActionDDIMPipeline, ActionTransformer1DModel, ExactDDIMScheduler
from action_ddim.cli.train import parse_train_config
from action_ddim.evaluation import realism
from action_ddim.training.checkpoint import MANIFEST, describe, file_names, find_damage
from action_ddim.training.loop import train
from augmentation.gestures import GestureConfig, write_gestures

ROOT = Path(__file__).parents[1]
TRAINER = ROOT / "train_diffusion_ddim.py"
REAL = ROOT.parent / "shared" / "real"
SEQ_LEN = 20

# Here and in the processes that tests start: sums split over threads differ in their last bits, and tiny models gain nothing.
torch.set_num_threads(1)

# Whoever starts the tests may ignore Ctrl-C, as nohup does, have a proxy, or come from a launcher: processes inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
for _name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
    del os.environ[_name]


def pytest_collection_modifyitems(items):
    """Put the files with the most slow tests first, so that no worker is left with one of them when the others are done."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A folder with `train` (12 sequences of 20 steps in two files) and `val` (5)."""
    folder = tmp_path_factory.mktemp("data")
    write_gestures(GestureConfig(num_sequences=12, sequence_length=SEQ_LEN), folder / "train", sequences_per_file=7)
    write_gestures(GestureConfig(num_sequences=5, sequence_length=SEQ_LEN, seed=1), folder / "val")
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """The pipeline folder of a toy model that was never trained, of 100 diffusion timesteps."""
    torch.manual_seed(0)
    denoiser = ActionTransformer1DModel(d_model=16, num_layers=1, nhead=2, patch_size=4, seq_len=SEQ_LEN)
    for name, parameter in denoiser.named_parameters():
        if "norm" not in name:  # gains stay 1, as they begin
            torch.nn.init.normal_(parameter, std=0.15)
    noise = {"num_train_timesteps": 100, "beta_schedule": "squaredcos_cap_v2"}
    scheduler = ExactDDIMScheduler(**noise, prediction_type="sample", timestep_spacing="trailing")
    folder = tmp_path_factory.mktemp("model")
    ActionDDIMPipeline(denoiser, scheduler).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def small_judges():
    """Judges of realism that tell apart what tests set before them in a third of the time."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"NUM_HALVINGS": 2, "NUM_FOLDS": 3, "NUM_KERNELS": 504, "NUM_TREES": 25}.items():
            patch.setattr(realism, name, value)
        yield


@pytest.fixture
def flags(data, tmp_path):
    """Return the command line of a run of a second: `flags(lr=1)` adds or replaces one, None leaves it out, True sets it."""

    def make(**changes) -> list[str]:
        values = {
            "data_dir": data / "train",
            "val_data_dir": data / "val",
            "save_dir": tmp_path / "run",
            "d_model": 16,
            "num_layers": 1,
            "nhead": 2,
            "patch_size": 4,
            "batch_size": 4,
            "num_epochs": 2,
            "device": "cpu",
            "report_to": "none",
            "plot_epochs": 0,  # drawing takes ten times as long as the rest of such a run
            **changes,
        }
        words = [
            (f"--{name}",) if value is True else (f"--{name}", str(value))
            for name, value in values.items()
            if value is not None
        ]
        return [word for pair in words for word in pair]

    return make


def reset_accelerator() -> None:
    """Accelerate keeps one state a process; each run of a test needs its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def fresh_accelerator():
    reset_accelerator()
    yield
    reset_accelerator()


@pytest.fixture
def run(flags, tmp_path, fresh_accelerator):
    """Train with the flags of a small run, changed; return the run folder."""

    def train_with(save_dir="run", **changes) -> Path:
        reset_accelerator()
        train(parse_train_config(flags(save_dir=tmp_path / save_dir, **changes)))
        return tmp_path / save_dir

    return train_with


def one_line(capsys, *expected: str) -> None:
    """Hold what was said to one line of an error that has these texts in it."""
    error = capsys.readouterr().err
    assert error.startswith("error: "), error
    assert error.count("\n") == 1, error
    for text in expected:
        assert text in error, error


def rows(folder: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv."""
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def timeless(folder: Path) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if "second" not in name} for row in rows(folder)]


def forge(checkpoint: Path, name: str, content: bytes) -> None:
    """Put a file into a checkpoint, and list it in the manifest as if a run had written it."""
    (checkpoint / name).write_bytes(content)
    manifest = {name: describe(checkpoint / name) for name in file_names(checkpoint)}
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))
    assert find_damage(checkpoint) is None


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a process of its own: without a key, and with a home of its own, wandb knows nobody."""
    unset = ("WANDB_API_KEY", "WANDB_MODE", "RANK", "WORLD_SIZE", "LOCAL_RANK")
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    return {**inherited, "PYTHONPATH": str(ROOT), "HOME": str(home), "OMP_NUM_THREADS": "1"}


class Process(subprocess.Popen):
    """A Python process that is at work while a test looks on; everything it says goes to one file."""

    def __init__(self, home: Path, *arguments):
        self._log = tempfile.NamedTemporaryFile(dir=home, prefix="log_")  # noqa: SIM115  (closed with the process)
        streams = {"stdin": subprocess.DEVNULL, "stdout": self._log, "stderr": subprocess.STDOUT}
        super().__init__([sys.executable, *map(str, arguments)], cwd=home, env=environment(home), **streams)

    def output(self) -> str:
        # By its name: to wind a shared handle back would have the process write over what it said.
        return Path(self._log.name).read_text(errors="replace")


@pytest.fixture
def start(tmp_path):
    """Start Python in a process of its own: `start("-c", "...")` returns the `Process`; one that is left over is killed."""
    processes = []

    def start_process(*arguments) -> Process:
        processes.append(Process(tmp_path, *arguments))
        return processes[-1]

    yield start_process
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def launch(start, tmp_path):
    """Start the trainer on two CPU processes as `accelerate launch` does: `launch(*flags)` returns the `Process`."""

    def launch_trainer(*flags, script: Path = TRAINER) -> Process:
        config = tmp_path / "two_processes.yaml"
        config.write_text("distributed_type: MULTI_GPU\nuse_cpu: true\nnum_processes: 2\nnum_machines: 1\n")
        return start("-m", "accelerate.commands.launch", "--config_file", config, "--main_process_port", 0, script, *flags)

    return launch_trainer


def wait_for(condition, process: Process, seconds: float = 300) -> None:
    """Wait until something is so while a process is at work; fail with what it said where it ends first."""
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.output()
        assert time.monotonic() < until, process.output()
        time.sleep(0.01)


@pytest.fixture
def mount():
    """Mount on a new folder: `mount(folder, "64k")` a file system of its own, `mount(folder, other)` another folder."""
    mounted = []

    def mount_on(folder: Path, what: str | Path) -> Path:
        folder.mkdir()
        words = ["--bind", what] if isinstance(what, Path) else ["-t", "tmpfs", "-o", f"size={what}", "tmpfs"]
        if sys.platform != "linux" or subprocess.run(["mount", *words, folder], capture_output=True).returncode:
            pytest.skip("only root may mount, and only on Linux")
        mounted.append(folder)
        return folder

    yield mount_on
    for folder in reversed(mounted):
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill_disk(disk: Path) -> Path:
    """Write a file until the disk is full, and return it."""
    with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))
    return disk / "filler"


@pytest.fixture
def python(tmp_path):
    """Run Python in a process of its own, outside the checkout: `python("-c", "...")` returns the completed process."""

    def run(*arguments, cwd: Path = tmp_path, timeout: float = 300, **changes) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            env={**environment(tmp_path), **changes},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run
