import dataclasses
import json
import re

import pytest

from action_ddim import TrainConfig
from action_ddim.cli.main import train
from action_ddim.cli.train import parse_train_config
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
        ({"loss_balance": 1.5}, "--loss_balance is 1.5; give 0 to 1"),
        ({"snr_gamma": 0.0}, "--snr_gamma is 0"),
        ({"recon_strength": 0.0}, "--recon_strength is 0"),
        ({"recon_strength": 1.5}, "--recon_strength is 1.5"),
        (
            {"plot_epochs": 0, "early_stopping_patience": 3, "early_stopping_metric": "val/realism/type_distance"},
            "--early_stopping_metric val/realism/type_distance is measured every --plot_epochs, which is 0",
        ),
        ({"dataset_name": "a/b"}, "--data_dir and --dataset_name exclude each other; leave one of them out"),
        ({"dataset_config_name": "mouse"}, "--dataset_config_name is one of --dataset_name"),
        ({"data_dir": None}, "the following arguments are required: --data_dir, or --dataset_name in their place"),
        ({"dataset_name": " ", "data_dir": None}, "--dataset_name is blank"),
        ({"recon_steps": 1001}, "--recon_steps 1001 is more than --num_train_timesteps 1000"),
        ({"device": "tpu"}, "--device is 'tpu'; choose from auto, cpu, cuda, mps"),
        ({"max_train_steps": 0}, "--max_train_steps is 0; give at least 1"),
        ({"push_to_hub": True}, "--push_to_hub and --hub_model_id go together"),
        ({"report_to": ("none", "wandb")}, "--report_to none excludes"),
        ({"augment": ("none", "shift")}, "--augment none excludes"),
        ({"augment": ("mirror",)}, "--augment is 'mirror'; choose from flip_x,"),
        ({"wandb_project": " "}, "--wandb_project is blank"),
        ({"wandb_project": "../ddim"}, "--wandb_project is '../ddim'; give at most 128 characters, none of them / \\ # ? % :"),
        ({"wandb_project": "d" * 129}, "give at most 128 characters"),
        ({"num_train_timesteps": 10**12}, "--num_train_timesteps is 1000000000000; give at most 100000"),
        ({"num_epochs": 10**400}, "give at most 1000000000"),
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


SETTINGS = {"data_dir": "train", "val_data_dir": "val", "lr": 2e-4, "seed": 3, "report_to": ["wandb", "tensorboard"]}
FILES = {
    "run.json": json.dumps(
        {"action_ddim": "0.1.0", "settings": {**SETTINGS, "seq_len": None, "compile": True}, "run": {"a": 1}}
    ),
    "flat.json": json.dumps({**SETTINGS, "compile": True}),
    # As a person writes it: YAML 1.1 would take 2e-4 for a text, and no for False.
    "flat.yaml": "data_dir: train\nval_data_dir: val\nlr: 2e-4  # a comment\nseed: 3\nreport_to: [wandb, tensorboard]\n"
    "compile: True\nmixed_precision: no\nseq_len: null\nsnr_gamma: ~\n",
    "run.yaml": "settings:\n  data_dir: train\n  val_data_dir: val\n  lr: 0.0002\n  seed: 3\n  compile: true\n"
    "  report_to:\n  - wandb\n  - tensorboard\n",
}


@pytest.mark.parametrize("name", FILES)
def test_settings_come_from_a_file_and_flags_override_it(name, tmp_path):
    (tmp_path / name).write_text(FILES[name])
    words = ["--config", str(tmp_path / name)]
    expected = config(lr=2e-4, seed=3, report_to=("wandb", "tensorboard"), compile=True)
    precision = "no" if name == "flat.yaml" else None
    assert parse_train_config(words) == dataclasses.replace(expected, mixed_precision=precision)
    flags = ["--seed", "4", "--no-compile", "--report_to", "none", "--data_dir", "other", "--mixed_precision", "bf16"]
    expected = config(data_dir="other", lr=2e-4, seed=4, report_to=("none",), mixed_precision="bf16")
    assert parse_train_config([*words, *flags]) == parse_train_config([*flags, *words]) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], (None, None, "a/b")),
        (["--data_dir", "t", "--val_data_dir", "v"], ("t", "v", None)),
        (["--dataset_name", "c/d"], (None, None, "c/d")),
        (["--val_data_dir", "v"], (None, "v", "a/b")),
    ],
)
def test_data_of_the_command_line_takes_the_place_of_the_files(words, expected, tmp_path):
    settings = {"dataset_name": "a/b", "dataset_config_name": "mouse"}
    (tmp_path / "hub.json").write_text(json.dumps(settings))
    parsed = parse_train_config(["--config", str(tmp_path / "hub.json"), *words])
    assert (parsed.data_dir, parsed.val_data_dir, parsed.dataset_name) == expected
    (tmp_path / "folders.yaml").write_text("data_dir: train\nval_data_dir: val\n")
    parsed = parse_train_config(["--config", str(tmp_path / "folders.yaml"), "--dataset_name", "a/b"])
    assert (parsed.data_dir, parsed.val_data_dir, parsed.dataset_name) == (None, None, "a/b")


def test_what_a_run_records_is_its_configuration(tmp_path):
    """Every field, at a value that is not its default, some of which YAML would read as another type."""
    changed = {
        item.name: {int: 8, float: 0.25, bool: True, str: "no"}.get(item.type, 7)
        for item in dataclasses.fields(TrainConfig)
        if item.metadata["choices"] is None and item.type in (int, float, bool, str)
    }
    changed |= {
        "dataset_name": "someone/1e3",
        "dataset_config_name": "no",
        "val_data_dir": "1e3",
        "hub_model_id": "someone/1e3",
        "snr_gamma": 1e-7,
        "save_dir": "-\N{FLOPPY DISK}",
        "device": "cpu",
        "d_model": 16,
    }
    expected = TrainConfig(**changed)
    (tmp_path / "config.json").write_text(json.dumps({"settings": dataclasses.asdict(expected)}))
    assert parse_train_config(["--config", str(tmp_path / "config.json")]) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("d_modle: 64", "{}: there is no setting d_modle; did you mean d_model?"),
        ("lr: 5\nsettings:\n  lr: 1e-3\n", "{}: lr lies beside settings, not among them; move it"),
        ("[" * 100_000, "{} cannot be read (maximum recursion depth exceeded"),
        ("colour: red", "{}: there is no setting colour; leave it out"),
        ("d_model: 64.5", "{}: argument --d_model: invalid int value: '64.5'"),
        ("d_model: [64]", "{}: d_model is ['64']; give one value"),
        ("d_model: {a: 1}", "{}: d_model is {{'a': '1'}}; give one value"),
        ('{"save_dir": true}', "{}: save_dir is True; give one value"),
        ("lr: fast", "{}: argument --lr: invalid float value: 'fast'"),
        ("device: tpu", "{}: argument --device: invalid choice: 'tpu'"),
        ("compile: maybe", "{}: compile is 'maybe'; give true or false"),
        ("val_data_dir: val\nd_model: 15", "--d_model 15 is not divisible by --nhead 4"),
        ("- d_model", "{} cannot be read (it holds no settings by name)"),
        ("settings: 3", "{} cannot be read (it holds no settings by name)"),
        ("", "{} cannot be read (it holds no settings by name)"),
        ("a: [", "{} cannot be read (while parsing"),
        ("\udcff", "{} cannot be read ('utf-8' codec can't decode"),
        (None, "{} cannot be read ([Errno 2] No such file or directory"),
        ("seed: 1", "the following arguments are required: --val_data_dir"),
    ],
)
def test_mistakes_in_the_file_are_one_line(text, message, tmp_path, capsys):
    path = tmp_path / "settings.yaml"
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    assert train(["--config", str(path), "--data_dir", "train"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message.format(f"--config {path}") in error
