"""The verb `train`: its flags, built from the fields of `TrainConfig`, and settings from files."""

import argparse
import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import yaml

from action_ddim.cli.inputs import OneLineParser, suggestion
from action_ddim.cli.outputs import unbroken_streams
from action_ddim.errors import UserError
from action_ddim.pretrained import MODEL_SETTINGS, check_agreement, model_settings
from action_ddim.training.config import TrainConfig

RUN_KEYS = {"action_ddim", "settings", "run", "versions"}  # of a run's config.json
# Data that a flag names takes the place of the data in --config, however that is named there.
OTHER_DATA = {"data_dir": ("dataset_name", "dataset_config_name"), "dataset_name": ("data_dir", "val_data_dir")}


def train(argv: list[str], prog: str | None) -> None:
    """Train a DDIM model of actions."""
    config = parse_train_config(argv, prog)
    if config.device == "mps":  # what it lacks runs on the CPU; read as torch is imported
        os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    # torch, diffusers and accelerate take seconds to import; --help and flag errors do not wait for them.
    from action_ddim.training.loop import train as train_model

    with unbroken_streams():
        train_model(config)


def parse_train_config(argv: list[str], prog: str | None = None) -> TrainConfig:
    """Parse the command line of the trainer, with what it leaves to `--config` and to `--init_from`.

    Raises:
        UserError: an argument, or a setting in a file, is unknown, missing, blank, out of its range, or contradicts another.
    """
    parser = _train_parser(prog)
    given = vars(parser.parse_args(argv))
    if "config" in given:
        path = given.pop("config")
        settings = _parse_settings(parser, read_settings(path), f"--config {path}")
        for flag, others in OTHER_DATA.items():
            if flag in given:
                settings = {name: value for name, value in settings.items() if name not in others}
        given = {**settings, **given}
    if "init_from" in given:
        model = given["init_from"]
        theirs = _parse_settings(parser, _initial_settings(given), f"--init_from {model}")
        check_agreement(given, theirs, model)
        given |= theirs
    return TrainConfig(**given)


def read_settings(path: str | Path) -> dict[str, Any]:
    """Read settings by name from a file, JSON or YAML, flat or, as in a run's config.json, under `settings`.

    Numbers stay text, to be read as those of the command line are: YAML 1.1 would take 2e-4 for a text, and `no` for False.

    Raises:
        UserError: it cannot be read as that.
    """
    try:
        text = Path(path).read_text()
        try:
            settings = json.loads(text, parse_int=str, parse_float=str)
        except ValueError:
            settings = yaml.load(text, Loader=yaml.BaseLoader)
        whole = dict(settings.items())
        settings = dict(whole.get("settings", whole).items())
    except (OSError, ValueError, AttributeError, RecursionError, yaml.YAMLError) as error:
        reason = "it holds no settings by name" if isinstance(error, AttributeError) else " ".join(str(error).split())
        raise UserError(f"--config {path} cannot be read ({reason}); give a JSON or YAML file") from error
    beside = sorted(whole.keys() - RUN_KEYS) if "settings" in whole else ()
    if beside:
        raise UserError(f"--config {path}: {beside[0]} lies beside settings, not among them; move it")
    return settings


def _initial_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that shape the model of `--init_from`: a run that goes on has them in its own folder."""
    if "resume_from_checkpoint" in given:
        with contextlib.suppress(UserError):
            settings = read_settings(Path(given.get("save_dir", TrainConfig.save_dir)) / "config.json")
            if settings.get("init_from") == given["init_from"]:
                return {name: settings[name] for name in MODEL_SETTINGS if name in settings}
    return model_settings(given["init_from"], "--init_from")


def _parse_settings(parser: argparse.ArgumentParser, settings: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Take settings by name as the flags that they are; null leaves a setting at its default."""
    fields, words = {item.name: item for item in dataclasses.fields(TrainConfig)}, []
    for name, value in settings.items():
        if name not in fields:
            raise UserError(f"{source}: there is no setting {name}; {suggestion(name, fields) or 'leave it out'}")
        if value in (None, "", "~", "null"):
            continue
        if fields[name].type is bool:
            if str(value).lower() not in ("true", "false"):
                raise UserError(f"{source}: {name} is {value!r}; give true or false")
            words.append(f"--{name}" if str(value).lower() == "true" else f"--no-{name}")
        elif isinstance(value, list) and get_origin(fields[name].type) is tuple:
            words += [f"--{name}", *map(str, value)]
        elif isinstance(value, str):
            words.append(f"--{name}={value}")
        else:
            raise UserError(f"{source}: {name} is {value!r}; give one value")
    try:
        return vars(parser.parse_args(words))
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def _train_parser(prog: str | None) -> OneLineParser:
    parser = OneLineParser(prog=prog, description="Train a DDIM diffusion model of pointer and touch actions.")
    help_text = "JSON or YAML file of settings by name, such as a run's config.json; flags override it"
    parser.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help=help_text)
    groups: dict[str, argparse._ArgumentGroup] = {}
    for item in dataclasses.fields(TrainConfig):
        name = item.metadata["group"]
        if name not in groups:
            groups[name] = parser.add_argument_group(name)
        _add_argument(groups[name], item)
    return parser


def _add_argument(group: argparse._ArgumentGroup, item: dataclasses.Field) -> None:
    kind = item.type
    if isinstance(kind, UnionType):  # `int | None`
        kind = get_args(kind)[0]
    several = get_origin(kind) is tuple
    default: Any = item.default
    help_text = item.metadata["help"]
    if default is not None:
        help_text += f" (default: {' '.join(default) if several else default})"
    # The dataclass has the defaults.
    if kind is bool:
        group.add_argument(f"--{item.name}", action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=help_text)
        return
    group.add_argument(
        f"--{item.name}",
        type=str if several else kind,
        nargs="+" if several else None,
        default=argparse.SUPPRESS,
        choices=item.metadata["choices"],
        help=help_text,
    )
