"""The model card, `pipeline/README.md`, in the form that the Hugging Face Hub reads."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import EvalResult, ModelCardData, metadata_load

from action_ddim.evaluation.dataset_card import published
from action_ddim.evaluation.metrics import TARGETS
from action_ddim.evaluation.tables import Table, name_values, targets_table
from action_ddim.export import CARD_NAME, FIGURE_NAME, LOAD_INSTALLED

NAME = "DDIM model of pointer and touch actions"
TAGS = ["action-ddim", "ddim", "diffusion", "gestures", "pointer", "time-series"]
# Where things lie on the machine that trained, and what is watched there, is nobody else's.
PRIVATE_SETTINGS = (
    *("data_dir", "val_data_dir", "dataset_name", "dataset_config_name"),
    *("init_from", "save_dir", "device", "report_to", "wandb_project"),
    *("push_to_hub", "hub_model_id"),
)


# What holds of every model.
PURPOSE = f"""## Intended use

Research on interaction, and agents that act openly for their user: draw new actions, reconstruct noisy recordings, propose
an action in a few steps. It is not for passing as a human where that is not wanted, such as getting past a check that
asks for a human, or forging the record of what somebody did.

## How to load

```python
import torch
{LOAD_INSTALLED}
actions = pipeline(num_sequences=10, num_inference_steps=50, generator=torch.Generator().manual_seed(0)).actions
```"""
LIMITS = """## Limits

It knows the gestures, the length and the rate of its data and nothing of what is on the screen. Reconstruction is judged
above; actions drawn from noise are weaker, and `action-ddim evaluate` measures how far they are from real ones. Whoever
publishes these weights states their licence, and whether the people who were recorded agreed."""


def model_card(config: Mapping, row: Mapping[str, float], data: Mapping, *, updates: int, has_figure: bool) -> str:
    """Write the card of a model.

    Args:
        config: What the run folder's `config.json` holds: `settings`, `run`, `versions`, and our own version.
        row: The row of `metrics.csv` that the model is judged by; empty before the first epoch has ended.
        data: The training folder's `dataset.json`; empty where there is none.
        updates: That the weights have seen.
        has_figure: Whether `FIGURE_NAME` lies beside the card.
    """
    settings, run = config["settings"], config["run"]
    measured = {name.removeprefix("val/"): value for name, value in row.items() if name.startswith("val/")}
    metrics = {name: value for name, value in measured.items() if name not in ("loss", "num_sequences", "seconds")}
    if not all(name in metrics for target in TARGETS for name in target.metrics):
        metrics = {}  # the row is of an earlier version, which measured other things
    flags = {f"--{name}": value for name, value in settings.items() if name not in PRIVATE_SETTINGS and value is not None}
    versions = {"action_ddim": config["action_ddim"], **config["versions"]}
    figure = f"\n![Held-out actions: original, noisy, reconstructed]({FIGURE_NAME})\n" if has_figure else ""
    return f"""---
{_metadata(metrics, updates).to_yaml()}
---

# {NAME}

A transformer denoiser of {run["num_parameters"]:,} parameters, and the DDIM scheduler that goes with it. It models actions
of {run["seq_len"]} steps of `[x, y, press]`: x and y in [0, 1] of the screen, y growing downwards, press 0 or 1.

{PURPOSE}

`actions` is `(10, {run["seq_len"]}, 3)`. Made with {", ".join(f"{name} {version}" for name, version in versions.items())}.

## Data

{run["num_train_sequences"]:,} training and {run["num_val_sequences"]:,} validation sequences.

{_markdown(("of the training data", "value"), published(data)) if data else "No dataset.json describes them."}

## Metrics

{_metrics_section(metrics, settings, row["update"]) if metrics else "Not measured yet."}
{figure}
## Training

{updates:,} of {run["num_updates"]:,} updates of {run["global_batch_size"]} sequences; the weights are their
moving average.

{_markdown(("flag", "value"), flags)}

{LIMITS}
"""


def with_evaluation(card: bytes, tables: Sequence[Table], how: str) -> bytes:
    """Return a card with tables of an evaluation at its end, in the place of those of an earlier one; all else is as it was."""
    start, end = (f"<!-- action-ddim evaluate: {word} -->".encode() for word in ("start", "end"))
    before, _, after = card.partition(start)
    after = after.partition(end)[2]
    parts = (part for table in tables for part in (f"## {table.title}", table.to_markdown() if table.rows else "", table.note))
    text = "\n\n".join(filter(None, (*parts, how)))
    return before.rstrip() + b"\n\n" + start + f"\n\n{text}\n\n".encode() + end + b"\n" + after.lstrip(b"\n")


def updates_of(pipeline: Path) -> int:
    """Return how many updates the weights of a pipeline folder have seen, as its card says; 0 where it does not say."""
    try:
        return int((metadata_load(pipeline / CARD_NAME) or {})["updates"])
    except Exception:  # no card, one of an earlier version, and whatever else somebody may have made of it
        return 0


class CardFacts(NamedTuple):
    """What a card says that a file of the model in another format repeats; None or nothing where it does not say."""

    license: str | None = None
    metrics: dict[str, float] | None = None
    rate_hz: float | None = None


def read_card(pipeline: Path) -> CardFacts:
    """Read the card of a pipeline folder."""
    try:
        metadata = metadata_load(pipeline / CARD_NAME) or {}
        results = [result for model in metadata.get("model-index", []) for result in model["results"]]
        measured = [metric for result in results for metric in result["metrics"]]
        metrics = {str(metric["type"]): float(metric["value"]) for metric in measured}
        rate = re.search(r"^\| rate_hz \| ([\d.]+) \|$", (pipeline / CARD_NAME).read_text(), re.MULTILINE)
        return CardFacts(metadata.get("license"), metrics or None, float(rate[1]) if rate else None)
    except Exception:  # as in `updates_of`
        return CardFacts()


def _metadata(metrics: Mapping[str, float], updates: int) -> ModelCardData:
    names = [name for target in TARGETS for name in target.metrics if metrics]
    results = [
        EvalResult(
            task_type="reconstruction",
            task_name="Reconstruction of noised actions",
            dataset_type="action-sequences",
            dataset_name="held-out action sequences",
            metric_type=name,
            metric_name=name,
            metric_value=round(metrics[name], 6),
        )
        for name in names
    ]
    return ModelCardData(library_name="diffusers", tags=TAGS, model_name=NAME, eval_results=results or None, updates=updates)


def _metrics_section(metrics: Mapping[str, float], settings: Mapping, update: float) -> str:
    targets = targets_table(metrics)
    return f"""After {update:,.0f} updates: held-out sequences, noised to {settings["recon_strength"]:g} of the schedule and
denoised with DDIM, in {settings["recon_steps"]} steps over the whole of it; actions in [0, 1].

{targets.to_markdown()}

{targets.note}. All that was measured:

{_markdown(("metric", "value"), {name: f"{value:.4g}" for name, value in metrics.items()})}"""


def _markdown(columns: tuple[str, str], values: Mapping) -> str:
    return Table("", columns, tuple(name_values(values).items())).to_markdown()
