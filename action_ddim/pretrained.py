"""Finished pipelines, by folder or by Hub id: found, asked for their settings, and loaded.

They are put together by the classes that are installed here: nothing is unpickled, and no code that lies beside weights is
fetched or run.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from action_ddim.errors import UserError

if TYPE_CHECKING:
    from action_ddim.pipeline import ActionDDIMPipeline

# torch, diffusers and the Hub's client take seconds to import: --help and mistakes in the flags do not wait for them.

DEVICES = ("auto", "cpu", "cuda", "mps")  # of --device
# What a finished model settles: the shape of its weights, and what they were trained to predict.
MODEL_SETTINGS = (
    *("d_model", "num_layers", "nhead", "patch_size", "mlp_ratio", "seq_len"),
    *("prediction_type", "beta_schedule", "num_train_timesteps"),
)
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
HUB_FILES = ["model_index.json", "README.md", "*/*.json", "*/*.safetensors"]


def find_pipeline(model: str, flag: str = "--model") -> Path:
    """Return the folder of a pipeline; what is named ORG/NAME, where there is no folder ORG, comes from the Hub.

    Raises:
        UserError: there is none, in one line that names the flag.
    """
    folder = Path(model)
    if HUB_ID.fullmatch(model) and not folder.parent.exists():
        folder = _download(model, flag)
    elif (folder / "pipeline.py").is_file():
        raise UserError(f"{flag} {model} is an exported model with code of its own; name the folder it was exported from")
    if not (folder / "model_index.json").is_file():
        inside = folder / "pipeline"
        remedy = (
            f"name {inside}" if (inside / "model_index.json").is_file() else "name the pipeline/ that a training run leaves"
        )
        raise UserError(f"{flag} {model} is not a pipeline folder; {remedy}")
    return folder


def _download(model: str, flag: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=HUB_FILES))
    except Exception as error:  # no network, no such name, no right to it: errors of the Hub's client and of those below it
        raise UserError(
            f"{flag} {model} is no folder here, and the Hub does not give it ({_reason(error)});"
            " check the name and the network, and `hf auth login` where it is private"
        ) from error


def model_settings(model: str, flag: str) -> dict[str, Any]:
    """Read `MODEL_SETTINGS` from a pipeline's files.

    Raises:
        UserError: they cannot be read, or as `find_pipeline`.
    """
    folder = find_pipeline(model, flag)
    found: dict[str, Any] = {"mlp_ratio": "4"}  # of models from before it was theirs to say
    try:
        for name in ("denoiser/config.json", "scheduler/scheduler_config.json"):
            found |= json.loads((folder / name).read_text(), parse_int=str)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{flag} {model} cannot be loaded ({_reason(error)}); copy or export it again") from error
    return {name: found[name] for name in MODEL_SETTINGS if name in found}


def check_agreement(settings: Mapping[str, Any], theirs: Mapping[str, Any], model: str) -> None:
    """Raise a UserError where a setting is not that of the model to start from: the flag, both values, the remedy."""
    for name in MODEL_SETTINGS:
        if name in settings and name in theirs and settings[name] != theirs[name]:
            raise UserError(
                f"--{name} is {settings[name]}, but --init_from {model} was made with {theirs[name]};"
                f" leave --{name} out, or give {theirs[name]}"
            )


def load_pipeline(model: str, device: str, flag: str = "--model", *, compiled: bool = False) -> "ActionDDIMPipeline":
    """Load a pipeline onto a device; progress bars of single steps are off.

    Args:
        compiled: Whether its denoiser is compiled when it is first called, and again for another shape of a batch. On a GPU a
            pass is then one CUDA graph: its many small kernels are launched together.

    Raises:
        UserError: it is damaged, or as `find_pipeline`, `find_device` and `check_compiler`.
    """
    if compiled:
        check_compiler()
    folder = find_pipeline(model, flag)
    import torch
    from diffusers.utils import logging

    device = find_device(device)
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # what it has to say of a damaged folder is in the error too
    logging.disable_progress_bar()
    try:
        pipeline = _assemble(folder)
        weights = pipeline.denoiser.named_parameters()  # on the meta device where the file lacks them
        unfit = next((name for name, value in weights if value.is_meta or not torch.isfinite(value).all()), None)
    except Exception as error:  # JSON, safetensors, shapes, missing files and classes: each library has errors of its own
        raise UserError(f"{flag} {model} cannot be loaded ({_reason(error)}); copy or export it again") from error
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
    if unfit:
        raise UserError(f"{flag} {model}: the weights {unfit} are missing or not finite; copy or export it again")
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device)
    if compiled:
        pipeline.denoiser.compile(mode="reduce-overhead")  # in place: its name, config and weights stay what they are
    return pipeline


def _assemble(folder: Path) -> "ActionDDIMPipeline":
    """Put a pipeline together from its parts, whether it names classes of a package or of the code beside it."""
    import diffusers

    from action_ddim import ActionDDIMPipeline, ActionTransformer1DModel, ExactDDIMScheduler

    index = json.loads((folder / "model_index.json").read_text())
    if index["denoiser"][1] != ActionTransformer1DModel.__name__:
        raise ValueError(f"its denoiser is a {index['denoiser'][1]}, not an {ActionTransformer1DModel.__name__}")
    library, name = index["scheduler"]
    scheduler = getattr(diffusers, name) if library == "diffusers" else ExactDDIMScheduler
    pipeline = ActionDDIMPipeline(
        ActionTransformer1DModel.from_pretrained(folder, subfolder="denoiser", local_files_only=True, use_safetensors=True),
        scheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True),
    )
    pipeline.register_to_config(_name_or_path=str(folder))  # as `from_pretrained` does
    return pipeline


def find_device(device: str) -> str:
    """Return the name that torch has for what `--device` asks for: `auto` is a CUDA GPU where there is one, else the CPU.

    Raises:
        UserError: there is no such device here.
    """
    import torch

    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return "cuda" if found["cuda"] else "cpu"
    if not found[device]:
        kind, more = ("CUDA GPU", ", or a CUDA build of torch") if device == "cuda" else ("GPU of a Mac", "")
        raise UserError(f"--device is {device}, but torch finds no {kind} here; use --device auto or cpu{more}")
    return device


def check_compiler() -> None:
    """Raise a UserError where `--compile` is asked for, and there is no compiler for what torch writes."""
    compilers = (os.environ.get("CXX"), "c++", "g++", "clang++")
    if not any(shutil.which(name) for name in compilers if name):
        raise UserError("--compile needs a C++ compiler, and there is none here; install g++, or leave --compile out")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
