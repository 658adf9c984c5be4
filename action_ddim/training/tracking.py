"""Experiment trackers through Accelerate: wandb that never prompts, tensorboard, or none; none of them can stop a run."""

import functools
import importlib.util
import netrc
import os
import typing
from collections.abc import Callable
from urllib.parse import urlparse

import numpy as np
from tqdm.auto import tqdm

from action_ddim.errors import UserError, first_line

if typing.TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker

WANDB_INIT_TIMEOUT_S = 30  # an unreachable server must not hold up the run
_MODULES = {"wandb": ("wandb",), "tensorboard": ("tensorboard", "tensorboardX")}


def check_trackers(report_to: tuple[str, ...]) -> None:
    """Raise a UserError where a tracker's package is missing; Accelerate would drop the tracker without a word."""
    for name in report_to:
        if name in _MODULES and not any(importlib.util.find_spec(module) for module in _MODULES[name]):
            raise UserError(
                f"--report_to {name} needs a package that is not installed; pip install {name}, or --report_to none"
            )


def wandb_has_key() -> bool:
    """Say whether wandb can log in without asking: a key in the environment, or one that `wandb login` has stored."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def start_trackers(
    accelerator: "Accelerator", project: str, settings: dict, folder: str, *, step: int = 0, wandb_run: str | None = None
) -> None:
    """Start the accelerator's trackers and give them the settings. MUST be called on every rank.

    A resumed run goes on after `step`, in the wandb run of that id. A tracker that cannot start is left out, with a warning.
    """
    # tensorboard takes numbers, strings and booleans only.
    flat = {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in settings.items()}
    start = functools.partial(accelerator.init_trackers, project, config=flat)
    names, started = sorted(accelerator.log_with, key=str), []
    for name in names:
        accelerator.log_with, accelerator.trackers = [name], []
        try:
            if str(name) == "wandb":
                _start_wandb(accelerator, start, folder, wandb_run)
            else:
                # What tensorboard has of later steps is of no account: the run goes through them again.
                start(init_kwargs={"tensorboard": {"purge_step": step + 1} if step else {}})
        except Exception as error:  # whatever an environment, a file in the way or a client comes up with
            accelerator.print(
                f"warning: {name} cannot start ({first_line(error)}) and records nothing; metrics.csv and plots/ do"
            )
            accelerator.trackers.clear()
        started += accelerator.trackers
    accelerator.log_with, accelerator.trackers = names, started


def _start_wandb(accelerator: "Accelerator", start: Callable, folder: str, wandb_run: str | None) -> None:
    """Start wandb: offline without a key, and where the server does not answer."""
    import wandb

    later = f"`wandb sync {folder}/wandb/offline-run-*` uploads it later"
    timeout = float(os.environ.get("WANDB_INIT_TIMEOUT", WANDB_INIT_TIMEOUT_S))
    same_run = {"id": wandb_run, "resume": "allow"} if wandb_run else {}
    online = {"dir": folder, "settings": wandb.Settings(init_timeout=timeout), **same_run}
    offline = {"dir": folder, "settings": wandb.Settings(silent=True), "mode": "offline", **same_run}
    if "WANDB_MODE" not in os.environ and not wandb_has_key():
        accelerator.print(f"wandb has no key and records offline; {later}")
        return start(init_kwargs={"wandb": offline})
    try:
        start(init_kwargs={"wandb": online})
    except wandb.Error as error:
        accelerator.print(f"wandb cannot reach its server ({str(error).splitlines()[0]}) and records offline; {later}")
        accelerator.trackers.clear()
        wandb.teardown()  # or the id of a resumed run is in use by the attempt that failed
        start(init_kwargs={"wandb": offline})


def wandb_run_id(accelerator: "Accelerator") -> str | None:
    """Return the id of the wandb run, by which a resumed run goes on in it; None without wandb, and off the main process."""
    runs = (getattr(tracker, "run", None) for tracker in accelerator.trackers if tracker.name == "wandb")
    return next((run.id for run in runs if run is not None), None)


def log_metrics(accelerator: "Accelerator", values: dict[str, float], step: int) -> None:
    """Give numbers to every tracker."""
    _to_each(accelerator, lambda tracker: tracker.log(values, step=step))


def log_image(accelerator: "Accelerator", key: str, image: np.ndarray, step: int) -> None:
    """Give an RGB image `(H, W, 3)` of bytes to every tracker that takes images."""

    def log(tracker: "GeneralTracker") -> None:
        if tracker.name == "wandb":
            tracker.log_images({key: [image]}, step=step)
        elif tracker.name == "tensorboard":
            tracker.log_images({key: image[None]}, step=step, dataformats="NHWC")

    _to_each(accelerator, log)


def finish_trackers(accelerator: "Accelerator") -> None:
    """Close the trackers; `Accelerator.end_training` finds none left."""
    _to_each(accelerator, lambda tracker: tracker.finish())
    accelerator.trackers.clear()


def _to_each(accelerator: "Accelerator", write: Callable[["GeneralTracker"], None]) -> None:
    """Call `write` with every tracker; one that fails is left out from then on, with one warning, and the run goes on."""
    for tracker in list(accelerator.trackers):
        try:
            write(tracker)
        except Exception as error:  # whatever a server, a full disk or a client's background thread comes up with
            accelerator.trackers.remove(tracker)
            reason = first_line(error)
            tqdm.write(f"warning: {tracker.name} fails ({reason}) and records no more of this run; metrics.csv and plots/ do")
