"""A finished model measured, and the report of it, against the same things done by hand."""

import base64
import contextlib
import html.parser
import io
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from action_ddim import ActionDDIMPipeline, ExactDDIMScheduler
from action_ddim.actions import to_model_space
from action_ddim.cli.main import main
from action_ddim.data.dataset import ActionDataset
from action_ddim.data.features import type_shares
from action_ddim.evaluation.evaluate import AssessmentSettings, assess, draw_samples, reconstruct_batches
from action_ddim.evaluation.inference import (
    denoise_once,
    draw_reconstruction_noise,
    error_by_timestep,
    predict_noise,
    reconstruction_generators,
)
from action_ddim.evaluation.metrics import TARGETS, reconstruction_metrics
from action_ddim.evaluation.realism import MIN_SEQUENCES
from action_ddim.evaluation.report import realism_tables, to_html, to_json, update_card
from action_ddim.evaluation.tables import Table
from augmentation.gestures import GestureConfig, write_gestures
from tests.conftest import SEQ_LEN

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_judges")]
NUM_REAL = 2 * MIN_SEQUENCES


@pytest.fixture(scope="module")
def pipeline(model) -> ActionDDIMPipeline:
    pipeline = ActionDDIMPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> ActionDataset:
    folder = tmp_path_factory.mktemp("real")
    write_gestures(GestureConfig(NUM_REAL + 50, sequence_length=SEQ_LEN, seed=1), folder)
    return ActionDataset(folder)


class Terminal(io.StringIO):
    """Keeps what is shown where errors go to a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def assessed_on_a_terminal(pipeline, real, small_judges):
    settings = AssessmentSettings(
        num_sequences=NUM_REAL, num_samples=MIN_SEQUENCES, num_inverted=6, sample_steps=6, batch_size=64, seed=3
    )
    with contextlib.redirect_stderr(Terminal()) as terminal:
        return assess(pipeline, real, settings), terminal.getvalue()


@pytest.fixture(scope="module")
def assessed(assessed_on_a_terminal):
    return assessed_on_a_terminal[0]


def chosen(real: ActionDataset) -> np.ndarray:
    """The sequences that the seed of `assessed` chooses, in its order."""
    return np.random.default_rng(3).permutation(len(real))[:NUM_REAL]


def test_reconstruction_is_that_of_the_pipeline_with_the_documented_noise(assessed, pipeline, real):
    assessment, _ = assessed
    assert list(assessment.reconstruction) == [0.3, 0.5, 0.7]
    assert assessment.num_sequences == NUM_REAL
    indices = chosen(real)
    assert len(set(indices.tolist())) == NUM_REAL
    actions = real.read(indices)
    noise = draw_reconstruction_noise(actions.numpy(), indices, 3)
    pipeline.scheduler.set_timesteps(timesteps=[69, 59, 49, 39, 29, 19, 9])
    sample = pipeline.scheduler.add_noise(to_model_space(actions), noise, torch.tensor([69]))
    with torch.no_grad():
        for timestep in pipeline.scheduler.timesteps:
            output = pipeline.denoiser(sample, timestep).sample
            sample = pipeline.scheduler.step(output, timestep, sample).prev_sample
    expected = reconstruction_metrics(actions.numpy(), ((sample + 1) / 2).clamp(0, 1).numpy())
    assert assessment.reconstruction[0.7] == pytest.approx(expected, rel=1e-4)


def test_inversion_is_encoded_and_decoded_in_as_many_steps(assessed, pipeline, real):
    assessment, _ = assessed
    assert list(assessment.inversion) == [10, 20, 50, 100]  # as many as the toy scheduler knows
    indices = chosen(real)[:6]
    actions = real.read(indices).numpy()
    encoded = pipeline.invert(actions, num_inference_steps=20, generator=reconstruction_generators(3, indices))
    decoded = pipeline(latents=encoded.latents, num_inference_steps=20, output_type="pt").actions.numpy()
    expected = reconstruction_metrics(actions, decoded)
    for name in ("mse", "coord_mse", "press_accuracy", "mean_snr_db"):
        assert assessment.inversion[20][name] == pytest.approx(expected[name], rel=1e-3)
    assert assessment.inversion[20]["residual"] == pytest.approx(encoded.residual.mean().item(), rel=1e-3)
    centred = encoded.latents.double() - encoded.latents.double().mean()
    moments = [encoded.latents.mean().item(), centred.square().mean().sqrt().item()]
    moments.append((centred**4).mean().item() / moments[1] ** 4 - 3)
    found = [assessment.inversion[20][name] for name in ("latent_mean", "latent_std", "latent_kurtosis")]
    assert found == pytest.approx(moments, rel=1e-3)


def test_realism_is_measured_on_the_drawn_sequences(assessed):
    realism = assessed[0].realism
    assert realism.num_sequences == MIN_SEQUENCES
    # A model that was never trained is nothing like the data.
    assert realism.figures["classifier_accuracy"].value > 0.9
    assert realism.figures["classifier_accuracy"].floor < 0.65


def test_drawn_sequences_do_not_depend_on_the_batch(pipeline):
    whole, parts = (
        np.concatenate(list(draw_samples(pipeline, 5, num_inference_steps=3, seed=1, batch_size=size))) for size in (5, 2)
    )
    np.testing.assert_allclose(whole, parts, atol=1e-5)


def test_predicted_noise_and_predicted_actions_make_up_what_was_seen(pipeline, real):
    actions, timestep = real.read(range(4)).numpy(), 49
    noise = draw_reconstruction_noise(actions, np.arange(4), 0)
    clean, predicted = denoise_once(pipeline, actions, noise, timestep), predict_noise(pipeline, actions, noise, timestep)
    alpha_bar = pipeline.scheduler.alphas_cumprod[timestep]
    seen = alpha_bar.sqrt() * to_model_space(torch.as_tensor(actions)) + (1 - alpha_bar).sqrt() * noise
    torch.testing.assert_close(alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * torch.as_tensor(predicted), seen)
    with torch.no_grad():
        output = pipeline.denoiser(seen, timestep).sample  # trained to predict clean actions
    torch.testing.assert_close(clean, output)


def test_error_by_timestep_is_that_of_the_predicted_actions(pipeline, real):
    actions = real.read(range(8)).numpy()
    timesteps, errors, constants = error_by_timestep(pipeline, actions, np.arange(8), seed=0)
    assert timesteps[0] == 0
    assert timesteps[-1] == 99
    noise = draw_reconstruction_noise(actions, np.arange(8), 0)
    clean = ((denoise_once(pipeline, actions, noise, 99).numpy() + 1) / 2).clip(0, 1)
    assert errors["coord"][-1] == pytest.approx(((clean - actions)[..., :2] ** 2).mean())
    assert errors["press"][-1] == pytest.approx(((clean - actions)[..., 2] ** 2).mean())
    noise, alpha_bar = noise.numpy(), pipeline.scheduler.alphas_cumprod[timesteps].numpy()[:, None, None, None]
    copied = (actions + 0.5 * ((1 - alpha_bar) / alpha_bar) ** 0.5 * noise).clip(0, 1)
    np.testing.assert_allclose(errors["copied_coord"], ((copied - actions)[..., :2] ** 2).mean(axis=(1, 2, 3)), rtol=1e-4)
    assert constants["press"] == pytest.approx(((actions - actions.mean(axis=0))[..., 2] ** 2).mean())


@pytest.fixture
def short(model) -> ActionDDIMPipeline:
    """One of 20 diffusion timesteps, which is soon inverted, and a test's own."""
    pipeline = ActionDDIMPipeline.from_pretrained(model)
    pipeline.scheduler = ExactDDIMScheduler.from_config(pipeline.scheduler.config, num_train_timesteps=20)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_what_is_not_finite_is_counted_and_the_rest_is_measured(short, real):
    """The first of every batch comes out NaN: of four batches, of the two that are drawn, of one and what is left of it."""

    def spoil(module, inputs, output):
        output[0][0] = torch.nan

    settings = AssessmentSettings(NUM_REAL, MIN_SEQUENCES + 2, num_inverted=6, sample_steps=5, batch_size=64, seed=3)
    actions, indices = real.read(chosen(real)).numpy(), chosen(real)
    others = np.arange(NUM_REAL) % 64 > 0
    soft = np.concatenate(list(reconstruct_batches(short, actions, indices, settings.reconstruction(0.5), 64)))
    drawn = np.concatenate(list(draw_samples(short, MIN_SEQUENCES + 2, num_inference_steps=5, seed=3, batch_size=64)))
    shares = type_shares(drawn[np.arange(len(drawn)) % 64 > 0])
    hook = short.denoiser.register_forward_hook(spoil)
    try:
        assessment, pictures = assess(short, real, settings)
    finally:
        hook.remove()
    assert assessment.not_finite == {
        **{f"reconstructed at strength {strength}": 4 for strength in (0.3, 0.5, 0.7)},
        **{f"inverted in {steps} steps": 2 for steps in (10, 20)},
        "drawn": 2,
    }
    assert assessment.reconstruction[0.5] == pytest.approx(reconstruction_metrics(actions[others], soft[others]), rel=1e-5)
    assert all(math.isfinite(value) for values in assessment.inversion.values() for value in values.values())
    assert assessment.realism.num_sequences == MIN_SEQUENCES
    assert list(assessment.realism.type_shares["drawn"].values()) == shares.tolist()
    assert all(math.isfinite(each.value) for each in assessment.realism.figures.values())
    assert len(pictures) == 7
    assert [cell for cell in Page(to_html(assessment, pictures, "m", "d")).cells if cell == "drawn"] == ["drawn"] * 4


def test_evaluate_of_a_model_that_has_diverged_reports_it(short, real, tmp_path, capsys):
    """Finite weights so large that nothing which it answers is finite."""
    for parameter in short.denoiser.parameters():
        parameter.data *= 1e8
    short.save_pretrained(tmp_path / "diverged")
    words = ["evaluate", "--model", tmp_path / "diverged", "--data_dir", real.folder, "--out", tmp_path / "report", "--num", 20]
    words += ["--num_samples", 10, "--num_inverted", 2, "--num_inference_steps", 2]
    assert main([str(word) for word in words]) == 0
    output = capsys.readouterr().out
    assert "0 of 6 targets met" in output
    assert re.search(r"^reconstructed at strength 0\.5 +20$", output, re.MULTILINE)
    assert re.search(r"^inverted in 20 steps +2$", output, re.MULTILINE)
    assert re.search(r"^drawn +10$", output, re.MULTILINE)
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["not_finite"]["drawn"] == 10
    assert report["reconstruction"]["0.5"]["mse"] is None
    assert report["targets"]["mse"] == {"values": {"mse": None}, "target": "< 0.01", "met": False}
    assert (tmp_path / "report" / "report.html").exists()


class Page(html.parser.HTMLParser):
    """The text of a page, its images, and whatever it would fetch from elsewhere."""

    def __init__(self, text: str):
        super().__init__()
        self.images: list[bytes] = []
        self.fetched: list[str] = []
        self.cells: list[str] = []
        self.cell = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.cell = tag in ("td", "th")
        if self.cell:
            self.cells.append("")
        for name, value in attributes:
            if name == "src" and value.startswith("data:image/png;base64,"):
                self.images.append(base64.b64decode(value.split(",", 1)[1]))
            elif name in ("src", "href"):
                self.fetched.append(value)

    def handle_endtag(self, tag):
        self.cell = False

    def handle_data(self, data):
        if self.cell:
            self.cells[-1] += data


def test_page_holds_every_figure_and_fetches_nothing(assessed):
    assessment, pictures = assessed
    text = to_html(assessment, pictures, "model <b>", "data & more")
    page = Page(text)
    assert page.fetched == []
    assert not re.search(r"https?://|@import|url\(", text)
    assert len(page.images) == len(pictures) == 7
    for image, picture in zip(page.images, pictures, strict=True):
        assert image == picture.png
        assert Image.open(io.BytesIO(image)).width > 500
    assert "model &lt;b&gt;" in text
    assert "data &amp; more" in text
    assert {"met", "not met"} & set(page.cells)
    assert {target.name for target in TARGETS} <= set(page.cells)
    assert "0.0065" in page.cells  # of the DDIM paper


def test_report_names_the_three_features_and_the_stretch_that_tell_most(assessed):
    realism = assessed[0].realism
    _, telling = realism_tables(assessed[0])
    for measured, rows in ((realism.by_feature, telling.rows[:3]), (realism.by_stretch, telling.rows[3:])):
        most = sorted(measured.values(), key=lambda each: each.value, reverse=True)[: len(rows)]
        for (name, value, floor), each in zip(rows, most, strict=True):
            assert measured[name.removeprefix("steps ")].value == each.value
            assert (value, floor) == (f"{each.value:.3f}", f"{each.floor:.3f}")
    assert {name for name, *_ in telling.rows} < set(Page(to_html(*assessed, "m", "d")).cells)
    numbers = to_json(assessed[0], "m", "d")["realism"]
    assert list(numbers["by_stretch"]) == ["0 to 9", "10 to 19"]
    assert numbers["by_feature"]["rest"] == {
        "value": realism.by_feature["rest"].value,
        "floor": realism.by_feature["rest"].floor,
    }


def test_card_gains_the_realism_once_and_keeps_the_rest(assessed, tmp_path):
    """Whatever bytes it has; a second evaluation takes the place of the first."""
    card = tmp_path / "README.md"
    before = b"---\r\nupdates: 7\r\n---\r\n\r\n# Strokes \xff\n"
    card.write_bytes(before)
    update_card(card, assessed[0])
    once = card.read_bytes()
    assert once.startswith(before.rstrip())
    for table in realism_tables(assessed[0]):
        assert once.count(f"## {table.title}\n\n{table.to_markdown()}\n\n{table.note}\n".encode()) == 1
    assert b"actions drawn in 6 DDIM steps, seed 3" in once
    card.write_bytes(once + b"\nAdded by hand.\n")
    update_card(card, assessed[0])
    assert card.read_bytes() == once + b"Added by hand.\n"


def test_table_reads_alike_in_every_form():
    table = Table("Title", ("name", "a | b"), (("<x>", "1.5"), ("longer", "22")), "note & more")
    assert table.to_text() == "Title\nname    a | b\n<x>       1.5\nlonger     22\nnote & more"
    assert table.to_markdown() == "| name | a \\| b |\n| --- | ---: |\n| &lt;x&gt; | 1.5 |\n| longer | 22 |"
    assert Page(table.to_html()).cells == ["name", "a | b", "<x>", "1.5", "longer", "22"]


def test_whatever_takes_long_shows_how_far_it_is(assessed_on_a_terminal):
    """One batch may take minutes: a bar that counts sequences alone would stand still for as long."""
    shown = assessed_on_a_terminal[1]
    for bar in ("reading", "strength 0.7", "inversion, 100 steps", "drawing", "realism"):
        assert f"{bar}: " in shown, bar
    of_how_many = set(re.findall(r"0/(\d+) \[[^\]]*step/s", shown))
    rebuilt, drawn, decoded = {"3", "5", "7"}, {"6"}, {"10", "20", "50", "100"}
    assert rebuilt | drawn | decoded < of_how_many
    assert len(of_how_many - rebuilt - drawn - decoded) == len(decoded)  # each inverted in fewer steps
    assert re.search(r"realism:.*0/32 \[", shown)
    assert "realism, MiniRocket (compiles at its first use): " in shown


def test_a_pipeline_that_shows_nothing_does_so_again_afterwards(pipeline):
    with contextlib.redirect_stderr(Terminal()) as terminal:
        list(draw_samples(pipeline, 2, num_inference_steps=2, seed=0, batch_size=2))
    assert "0/2" in terminal.getvalue()
    with contextlib.redirect_stderr(Terminal()) as terminal:
        pipeline(2, 2)
    assert not terminal.getvalue()


def test_evaluate_prints_writes_and_agrees_with_itself(model, real, tmp_path, capsys):
    model = shutil.copytree(model, tmp_path / "model")
    (model / "README.md").write_text("# Strokes\n")
    words = ["evaluate", "--model", model, "--data_dir", real.folder, "--out", tmp_path / "report", "--num", 20]
    words += ["--num_samples", 10, "--num_inverted", 2, "--num_inference_steps", 2, "--update_card"]
    assert main([str(word) for word in words]) == 0
    output = capsys.readouterr().out
    card = (model / "README.md").read_text()
    assert card.startswith("# Strokes\n")
    assert "## Realism of drawn actions\n\nnot computed from 10 drawn and 20 real sequences" in card
    assert f"model card: {model / 'README.md'}\n" in output
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert set(report["targets"]) == {target.name for target in TARGETS}
    mse = report["reconstruction"]["0.5"]["mse"]
    assert report["targets"]["mse"] == {"values": {"mse": mse}, "target": "< 0.01", "met": mse < 0.01}
    assert re.search(rf"^mse +{mse:.4g} +< 0.01 +(not )?met$", output, re.MULTILINE)
    assert report["inversion"]["20"]["mse"] > 0
    assert report["realism"]["figures"] == {}
    assert "not computed from 10 drawn and 20 real sequences" in report["realism"]["reason"]
    assert "not computed from 10 drawn and 20 real sequences" in output
    page = Page((tmp_path / "report" / "report.html").read_text())
    assert f"{mse:.4g}" in page.cells
    assert report["settings"]["num_samples"] == 10
    assert set(report["not_finite"].values()) == {0}
    assert "Not finite" not in output
