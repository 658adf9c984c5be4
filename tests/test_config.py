import dataclasses
import re

import pytest

from action_ddim import TrainConfig
from action_ddim.arguments import parse_train_config
from action_ddim.cli import train
from action_ddim.errors import UserError

REQUIRED = ["--data_dir", "train", "--val_data_dir", "val"]

# As the user's documentation has them.
DOCUMENTED_DEFAULTS = {
    "d_model": 128,
    "num_layers": 4,
    "nhead": 4,
    "batch_size": 32,
    "num_epochs": 50,
    "lr": 1e-4,
    "device": "auto",
    "wandb_project": "action-diffusion-test",
    "save_dir": "checkpoints",
}


def config(**settings) -> TrainConfig:
    return TrainConfig(**{"data_dir": "train", "val_data_dir": "val", **settings})


def test_documented_defaults():
    parsed = parse_train_config(REQUIRED)
    assert {name: getattr(parsed, name) for name in DOCUMENTED_DEFAULTS} == DOCUMENTED_DEFAULTS
    assert (parsed.data_dir, parsed.val_data_dir) == ("train", "val")


def test_expected_defaults():
    parsed = parse_train_config(REQUIRED)
    assert (parsed.seed, parsed.seq_len, parsed.mixed_precision, parsed.snr_gamma) == (0, None, None, None)
    assert (parsed.checkpointing_epochs, parsed.plot_epochs, parsed.eval_sequences) == (20, 10, 256)
    assert (parsed.recon_strength, parsed.recon_steps, parsed.report_to) == (0.5, 10, ("wandb",))


def test_command_line_and_dataclass_agree():
    words = [*REQUIRED, "--lr", "2e-4", "--snr_gamma", "5", "--seq_len", "100", "--report_to", "wandb", "tensorboard"]
    assert parse_train_config(words) == config(lr=2e-4, snr_gamma=5.0, seq_len=100, report_to=("wandb", "tensorboard"))


def test_help_explains_every_flag_with_its_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")  # no line is broken
    with pytest.raises(SystemExit) as exit_info:
        train(["--help"])
    assert exit_info.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(TrainConfig):
        assert f"--{field.name} " in text
        assert len(field.metadata["help"]) > 10
        if field.default not in (dataclasses.MISSING, None):
            shown = field.default[0] if isinstance(field.default, tuple) else field.default
            assert re.search(rf"--{field.name} .*?\(default: {re.escape(str(shown))}\)", text), field.name


@pytest.mark.parametrize(
    ("d_model", "lr", "expected"),
    [
        (64, 2e-4, 2e-4 * 1024 / 64),  # the documented full training
        (128, 1e-4, 1e-4 * 1024 / 128),
        (32, 1e-3, 6.4e-3),  # held at the ceiling
        (64, 1e-2, 1e-2),  # above the ceiling as given
        (1024, 1e-4, 1e-4),
        (2048, 1e-4, 5e-5),  # wider than the base: scaled down
        (2048, 1e-2, 5e-3),
    ],
)
def test_learning_rate_is_scaled_by_width_within_bounds(d_model, lr, expected):
    assert config(d_model=d_model, lr=lr).peak_lr == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"d_model": 64, "nhead": 5}, "--d_model 64 is not divisible by --nhead 5"),
        ({"d_model": 15, "nhead": 5}, "--d_model is 15; give an even number"),
        ({"d_model": 0}, "--d_model is 0; give at least 1"),
        ({"num_layers": -1}, "--num_layers is -1"),
        ({"nhead": 0}, "--nhead is 0"),
        ({"patch_size": 0}, "--patch_size is 0"),
        ({"batch_size": 0}, "--batch_size is 0"),
        ({"num_epochs": 0}, "--num_epochs is 0"),
        ({"lr": 0.0}, "--lr is 0; give a number above 0"),
        ({"lr": float("nan")}, "--lr is nan; give a finite number"),
        ({"lr": float("inf")}, "--lr is inf"),
        ({"weight_decay": -1.0}, "--weight_decay is -1"),
        ({"max_grad_norm": 0.0}, "--max_grad_norm is 0"),
        ({"gradient_accumulation_steps": 0}, "--gradient_accumulation_steps is 0"),
        ({"ema_decay": 1.0}, "--ema_decay is 1; give 0 to below 1"),
        ({"dropout": 1.0}, "--dropout is 1"),
        ({"seed": -1}, "--seed is -1"),
        ({"seed": 2**32}, "--seed is 4294967296; give at most"),
        ({"seq_len": 1}, "--seq_len is 1; give at least 2"),
        ({"snr_gamma": 0.0}, "--snr_gamma is 0"),
        ({"recon_strength": 0.0}, "--recon_strength is 0"),
        ({"recon_strength": 1.5}, "--recon_strength is 1.5"),
        ({"recon_steps": 1001}, "--recon_steps 1001 is more than --num_train_timesteps 1000"),
        ({"device": "tpu"}, "--device is 'tpu'; choose from auto, cpu, cuda"),
        ({"report_to": ("none", "wandb")}, "--report_to none excludes"),
        ({"wandb_project": " "}, "--wandb_project is blank"),
    ],
)
def test_values_out_of_range_are_named(settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        config(**settings)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--data_dir, --val_data_dir"),
        ([*REQUIRED, "--batch_size", "many"], "--batch_size"),
        ([*REQUIRED, "--batchsize", "4"], "--batchsize"),
        ([*REQUIRED, "--batch", "4"], "--batch"),
        ([*REQUIRED, "--device", "tpu"], "--device"),
        # What the shell makes of a comment behind a line's backslash.
        ([*REQUIRED, " ", "--batch_size", "4"], "comments on lines of their own"),
        ([*REQUIRED, ""], "an argument is blank"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(words, message, capsys):
    assert train(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert message in error
