"""The configurations for `accelerate launch`: read by Accelerate's own class, explained, and named in docs/scaling.md."""

import re
import socket
import subprocess

import pytest
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType

from action_ddim import denoiser
from tests.conftest import ROOT

CONFIGS = ROOT / "accelerate_configs"
EXPECTED = {  # type, processes, machines, CPU, precision
    "cpu": (DistributedType.NO, 1, 1, True, "no"),
    "multi_cpu": (DistributedType.MULTI_GPU, 2, 1, True, "no"),
    "single_gpu": (DistributedType.NO, 1, 1, False, "no"),
    "multi_gpu": (DistributedType.MULTI_GPU, 8, 1, False, "bf16"),
    "multi_node": (DistributedType.MULTI_GPU, 16, 2, False, "bf16"),
    "fsdp": (DistributedType.FSDP, 8, 1, False, "bf16"),
}


def test_there_is_one_for_each_place():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_reads_it(name):
    """An unknown key, as of another version, is an error there."""
    config = ClusterConfig.from_yaml_file(CONFIGS / f"{name}.yaml")
    found = (config.distributed_type, config.num_processes, config.num_machines, config.use_cpu, config.mixed_precision)
    assert found == EXPECTED[name]


def test_fsdp_settings_are_those_that_the_launcher_takes():
    """Accelerate drops a setting that it does not know without a word."""
    settings = ClusterConfig.from_yaml_file(CONFIGS / "fsdp.yaml").fsdp_config
    known = {action.dest for action in launch_command_parser()._actions}
    assert settings
    assert set(settings) <= known
    assert hasattr(denoiser, settings["fsdp_transformer_layer_cls_to_wrap"])


@pytest.mark.parametrize("name", EXPECTED)
def test_every_key_has_a_comment(name):
    text = (CONFIGS / f"{name}.yaml").read_text()
    keys = [line for line in text.splitlines() if re.match(r"\s*\w+:", line)]
    assert len(keys) >= 8
    for line in keys:
        assert re.search(r" # \w", line), line


@pytest.mark.parametrize("name", [f"{name}.yaml" for name in EXPECTED] + ["slurm.sbatch"])
def test_documentation_has_its_command(name):
    assert f"accelerate_configs/{name}" in (ROOT / "docs" / "scaling.md").read_text()


def test_sbatch_is_a_script_that_fills_in_the_configuration_of_two_machines():
    script = CONFIGS / "slurm.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    assert "multi_node.yaml" in text
    known = {option for action in launch_command_parser()._actions for option in action.option_strings}
    launch = text[text.index("accelerate launch") : text.index("train_diffusion_ddim.py")]
    assert set(re.findall(r"--\w+", launch)) <= known


@pytest.mark.slow
def test_two_machines_meet(flags, tmp_path, python, start):
    """Two launchers, as on two machines, one process each, on the CPU."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = (CONFIGS / "multi_node.yaml").read_text()
    for there, here in (("num_processes: 16", "num_processes: 2"), ("use_cpu: false", "use_cpu: true"), ("bf16", "'no'")):
        assert there in settings
        settings = settings.replace(there, here)
    (tmp_path / "two.yaml").write_text(settings)
    words = ["-m", "accelerate.commands.launch", "--config_file", tmp_path / "two.yaml", "--main_process_port", port]
    trainer = [ROOT / "train_diffusion_ddim.py", *flags(save_dir="run", num_epochs=1)]
    other = start(*words, "--machine_rank", "1", *trainer)
    result = python(*words, "--machine_rank", "0", *trainer, timeout=120)
    assert other.wait(60) == 0
    assert result.returncode == 0, result.stderr
    assert '"num_processes": 2' in (tmp_path / "run" / "config.json").read_text()
