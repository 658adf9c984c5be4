import html
import re

import numpy as np
import pytest
from huggingface_hub import ModelCard

from action_ddim.evaluation.metrics import TARGETS, reconstruction_metrics
from action_ddim.evaluation.model_card import model_card, updates_of
from action_ddim.export import FIGURE_NAME

SETTINGS = {
    "data_dir": "/home/ada/secret",
    "d_model": 16,
    "lr": 2e-4,
    "recon_strength": 0.5,
    "recon_steps": 10,
    "snr_gamma": None,
    "augment": ("flip_x", "scale"),
}
RUN = {
    "num_parameters": 1234567,
    "seq_len": 20,
    "num_train_sequences": 5000,
    "num_val_sequences": 1000,
    "num_updates": 4200,
    "global_batch_size": 64,
}
CONFIG = {"action_ddim": "0.1.0", "settings": SETTINGS, "run": RUN, "versions": {"torch": "2.13.0"}}


@pytest.fixture
def row() -> dict[str, float]:
    actions = np.random.default_rng(0).random((3, 20, 3))
    metrics = reconstruction_metrics(actions, actions + 0.05)
    measured = {f"val/{name}": value for name, value in metrics.items()}
    return {"epoch": 50.0, "update": 3950.0, "train/loss": 0.1, "val/seconds": 1.5, "val/loss": 0.2, **measured}


def test_hub_reads_the_metadata_and_the_metrics(row, tmp_path):
    (tmp_path / "README.md").write_text(model_card(CONFIG, row, {"source": "pen | tablet"}, updates=4000, has_figure=True))
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "diffusers"
    assert "action-ddim" in card.data.tags
    measured = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert set(measured) == {name for target in TARGETS for name in target.metrics}
    for name, value in measured.items():
        assert value == pytest.approx(row[f"val/{name}"], abs=1e-6)


def test_card_says_what_the_model_is_for_and_how_it_was_made(row):
    text = model_card(CONFIG, row, {"source": "pen | tablet", "rate_hz": 125}, updates=4000, has_figure=True)
    assert "agents that act openly for their user" in text
    assert "not for passing as a human where that is not wanted" in " ".join(text.split())
    assert "ActionDDIMPipeline.from_pretrained" in text
    assert "1,234,567 parameters" in text
    assert "| --lr | 0.0002 |" in text
    assert "| source | pen \\| tablet |" in text
    assert "4,000 of 4,200 updates" in text
    assert "After 3,950 updates: held-out" in text
    assert f"({FIGURE_NAME})" in text
    assert "| temporal_iou |" in text
    assert "torch 2.13.0" in text
    assert "| --augment | flip_x scale |" in text


def test_values_of_dataset_json_are_shown_as_they_are(row):
    """Read by another's hand: python-markdown, which comes with tensorboard."""
    markdown = pytest.importorskip("markdown")
    data = {
        "source": "line\n\n# heading\n| a | b |",
        "device": "<script>alert(1)</script> <img src=x> &lt; a & b",
        "of `whom`": "`code` [link](https://example.com) ![image](x.png) \\",
        "note": "**bold** *slanted* __bold__ _slanted_ a_b",
    }
    shown = markdown.markdown(model_card(CONFIG, row, data, updates=4000, has_figure=False), extensions=["tables"])
    section = shown[shown.index("<h2>Data") : shown.index("<h2>Metrics")]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", section, re.DOTALL)
    assert [html.unescape(cell) for cell in cells] == [" ".join(text.split()) for item in data.items() for text in item]
    assert not re.search("<(?!/?(h2|p|table|thead|tbody|tr|th|td)[ >])", section)


def test_card_tells_nobody_who_was_recorded(row):
    recordings = {
        "split_by": "user",
        "dropped": {"alone": 3},
        "screens": {"ann": [0, 0, 733.2, 438.6]},
        "files": [{"path": "home/log.csv", "sha256": "5d41"}],
        "unread": ["home/other.csv is empty"],
    }
    text = model_card(CONFIG, row, {"rate_hz": 125.0, "recordings": recordings}, updates=4000, has_figure=False)
    assert not any(private in text for private in ("ann", "home", "5d41"))
    for shown in ("| rate_hz | 125.0 |", "| recordings.split_by | user |", "| recordings.dropped.alone | 3 |"):
        assert shown in text
    assert "| recordings.num_files | 1 |" in text


def test_card_tells_no_folder_and_no_empty_flag(row):
    text = model_card(CONFIG, row, {}, updates=4000, has_figure=False)
    assert "secret" not in text
    assert "--snr_gamma" not in text
    assert FIGURE_NAME not in text
    assert "| loss |" not in text
    assert "seconds" not in text


def test_card_before_the_first_epoch(tmp_path):
    (tmp_path / "README.md").write_text(model_card(CONFIG, {}, {}, updates=0, has_figure=False))
    assert ModelCard.load(tmp_path / "README.md").data.eval_results is None
    assert "Not measured yet" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("card", [None, "", "no card", "---\nupdates: [1]\n---\n", "---\n- a\n---\n", "---\n: {\n---\n"])
def test_card_that_does_not_say_so_stands_for_no_updates(card, row, tmp_path):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert updates_of(tmp_path) == 0
    (tmp_path / "README.md").write_text(model_card(CONFIG, row, {}, updates=4000, has_figure=False))
    assert updates_of(tmp_path) == 4000
