"""Every shell command and every Python block of the README runs as it is written, in its order, in one folder.

What trains or draws many is made small by the few words of `TOY`, and nothing else is changed. What would install, upload or
needs another machine is named in `NOT_RUN`, and its words are held against those who read them. `action-ddim` is called in this
process, which has torch; that installing makes a program of it, `test_packaging.py` holds.
"""

import configparser
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from accelerate.commands.launch import launch_command_parser

from action_ddim.cli.main import VERBS, main
from action_ddim.cli.train import parse_train_config

from ..conftest import ROOT, environment, reset_accelerator

TOY = {
    "--num_sequences 5000": "--num_sequences 24",
    "--num_sequences 1000": "--num_sequences 12",
    "--num_epochs 50": "--num_epochs 1",
    "--d_model 64": "--d_model 16",
    "--num_layers 3": "--num_layers 1",
    "--num 100": "--num 4",
    "evaluate --model": "evaluate --num_samples 20 --num_inverted 2 --model",
    # The dots of "Train elsewhere" stand for the flags of "Train".
    "train_diffusion_ddim.py ...": "train_diffusion_ddim.py --data_dir diffusion_test_data/train"
    " --val_data_dir diffusion_test_data/val --d_model 16 --num_epochs 1 --report_to none --save_dir elsewhere",
}
NOT_RUN = {
    "make": "installs; CI is the command",
    "pip": "installs",
    "accelerate launch --config_file accelerate_configs/single_gpu.yaml": "needs a GPU",
    "accelerate launch --config_file accelerate_configs/multi_gpu.yaml": "needs four GPUs",
    "sbatch": "needs a Slurm cluster; test_accelerate_configs.py reads the script",
}
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = BLOCK.findall(README)


def commands(block: str) -> list[str]:
    """Return the commands of a shell block, a line each, without comments."""
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


def is_run(command: str) -> bool:
    return not any(command.startswith(f"{words} ") for words in NOT_RUN)


COMMANDS = [command for language, block in BLOCKS if language == "bash" for command in commands(block)]


@pytest.fixture
def sandbox(tmp_path) -> Path:
    """A folder as the reader has it: what is in the repository, and recordings."""
    folder = tmp_path / "reader"
    folder.mkdir()
    for name in ("train_diffusion_ddim.py", "accelerate_configs"):
        (folder / name).symlink_to(ROOT / name)
    times = np.linspace(0, 1, 250)
    stroke = np.stack([0.2 + 0.6 * times, 0.5 + 0 * times, (times > 0.3) & (times < 0.6)], axis=1)
    stroke[:, :2] += np.random.default_rng(0).normal(0, 0.003, (250, 2))
    np.save(folder / "recording.npy", stroke.astype(np.float32))
    for user in range(3):
        write_log(folder / "logs" / f"user{user}" / "session_1.csv", user)
    return folder


def write_log(path: Path, seed: int) -> None:
    """Write half a minute of a mouse that moves between rests, and clicks."""
    generator, time, place = np.random.default_rng(seed), 40, np.array([500.0, 300.0])
    lines = ["client timestamp,button,state,x,y"]
    while time < 30_000:
        for step in np.diff(np.sin(np.linspace(0, np.pi / 2, 40)))[:, None] * (generator.uniform([50, 50], [950, 550]) - place):
            place, time = place + step, time + 8
            lines.append(f"{time},NoButton,Move,{place[0]:.0f},{place[1]:.0f}")
        for state, pause in (("Pressed", 300), ("Released", 80)):
            time += pause
            lines.append(f"{time},Left,{state},{place[0]:.0f},{place[1]:.0f}")
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines) + "\n")


def run(words: list[str], sandbox: Path) -> None:
    """Run in the reader's shell, and show everything where it fails."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    result = subprocess.run(
        words,
        cwd=sandbox,
        env={**environment(sandbox.parent), "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, f"{words[-1]}\n{result.stdout}\n{result.stderr}"


def run_small(command: str, sandbox: Path, small: dict[str, str]) -> None:
    for words, fewer in small.items():
        command = command.replace(words, fewer)
    program, *words = shlex.split(command)
    if program == "action-ddim":
        reset_accelerator()
        assert main(words) == 0, command
    else:
        run(["bash", "-c", command], sandbox)


@pytest.mark.slow
def test_every_block_runs_as_it_is_written(sandbox, monkeypatch, fresh_accelerator):
    monkeypatch.chdir(sandbox)
    python = "".join(block for language, block in BLOCKS if language == "python")  # the second goes on from the first
    for language, block in BLOCKS:
        if language == "bash":
            for command in filter(is_run, commands(block)):
                run_small(command, sandbox, TOY)
        elif python:
            run([sys.executable, "-c", python], sandbox)
            python = ""
    left = {path.name for path in sandbox.iterdir()}
    assert left >= {"checkpoints", "elsewhere", "samples.npy", "samples.png", "cleaned.npy", "report", "exported"}


@pytest.mark.slow
def test_recordings_become_a_model_in_five_commands(sandbox, monkeypatch, fresh_accelerator):
    """The first block of docs/recordings.md, small by the words of `TOY`; the second imports a table."""
    monkeypatch.chdir(sandbox)
    first, second = (block for _, block in BLOCK.findall((ROOT / "docs" / "recordings.md").read_text()))
    assert len(commands(first)) == 5
    np.savetxt(
        sandbox / "log.csv",
        [(index / 100, index % 300, index % 200, index % 50 < 9, index // 2000) for index in range(4000)],
        "%g",
        ",",
        header="t,px,py,down,who",
        comments="",
    )
    small = {"--report_to": "--d_model 16 --num_layers 1 --report_to"}
    for command in (*commands(first), commands(second)[0].replace("--out recordings", "--out of_table")):
        run_small(command, sandbox, {**TOY, **small})
    assert {path.name for path in sandbox.iterdir()} >= {
        "recordings",
        "inspection",
        "checkpoints",
        "report",
        "samples.png",
        "of_table",
    }


def test_blocks_are_shell_or_python():
    assert {language for language, _ in BLOCKS} == {"bash", "python"}
    assert len(BLOCKS) * 2 == README.count("\n```")


def test_what_is_made_small_or_not_run_is_in_the_readme():
    for words in TOY:
        assert any(words in command for command in filter(is_run, COMMANDS)), words
    for words in NOT_RUN:
        assert any(command.startswith(f"{words} ") for command in COMMANDS), words


@pytest.mark.parametrize("command", [command for command in COMMANDS if not is_run(command)])
def test_what_is_not_run_says_words_that_are_known(command):
    program, *words = shlex.split(command)
    if program == "make":
        subprocess.run(["make", "--dry-run", *words], cwd=ROOT, check=True, capture_output=True)
    elif program == "pip":
        setup = configparser.ConfigParser()
        setup.read(ROOT / "setup.cfg")
        assert words[:2] == ["install", "-e"]
        assert words[2].strip(".[]") in setup["options.extras_require"]
    elif program == "accelerate":
        words[words.index("...") :] = ["--data_dir", "train", "--val_data_dir", "val"]
        args = launch_command_parser().parse_args(words[1:])
        assert (ROOT / args.config_file).is_file()
        assert (ROOT / args.training_script).is_file()
        parse_train_config(args.training_script_args)
    else:
        assert (ROOT / words[0]).is_file()


def test_flags_that_the_text_names_exist(capsys):
    for verb in VERBS:
        with pytest.raises(SystemExit):
            main([verb, "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "default: None" not in told
    known = set(re.findall(r"--\w+", told))
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"--[a-z]\w+", prose)) <= known


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", README):
        assert (ROOT / target).exists(), target
