"""The card of a data set, the README.md that the Hugging Face Hub reads."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import DatasetCardData

from action_ddim.data.dataset import ActionDataset
from action_ddim.data.hub_dataset import CARD_KEY, COLUMN
from action_ddim.evaluation.tables import Table, name_values

TAGS = ["action-ddim", "gestures", "pointer", "time-series"]


def dataset_card(name: str, splits: Mapping[str, ActionDataset]) -> str:
    """Write the card of data sets by their split, with what the `dataset.json` of each says."""
    files = [{"split": split, "path": f"data/{split}-*"} for split in splits]
    configs = [{"config_name": "default", "data_files": files}]
    described = {split: published(data.info) for split, data in splits.items()}
    more: dict[str, Any] = {"configs": configs, CARD_KEY: described}
    metadata = DatasetCardData(tags=TAGS, **more)
    named = [name_values(info) for info in described.values()]
    rows = tuple(
        (key, *(values.get(key, "") for values in named)) for key in dict.fromkeys(key for values in named for key in values)
    )
    sizes = ("sequences", *(f"{len(data):,}" for data in splits.values()))
    seq_len = next(iter(splits.values())).seq_len
    return f"""---
{metadata.to_yaml()}
---

# Pointer and touch actions

Sequences of {seq_len} steps of `[x, y, press]`: x and y in [0, 1] of the screen, y growing downwards, press 0 or 1. A row is a
sequence: `{COLUMN}`, float32 `({seq_len}, 3)`, and its `index`.

{Table("", ("", *splits), (sizes, *rows)).to_markdown()}

## How to load

```bash
action-ddim train --dataset_name {name}
```

```python
from datasets import load_dataset

actions = load_dataset("{name}", split="train").with_format("numpy")[:10]["{COLUMN}"]  # (10, {seq_len}, 3)
```

## Limits

Whoever publishes recordings states their licence, and whether the people who were recorded agreed: a pointer's path can tell
who moved it.
"""


def published(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return what dataset.json says without what tells of people: names of persons, files and folders."""
    recordings = info.get("recordings")
    if not isinstance(recordings, Mapping):
        return dict(info)
    kept = {name: value for name, value in recordings.items() if name not in ("files", "screens", "unread")}
    return {**info, "recordings": {**kept, "num_files": len(recordings.get("files", []))}}
