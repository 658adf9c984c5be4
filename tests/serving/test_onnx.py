"""The exported graphs do what the pipeline does, from the same latents, in a process without torch."""

import io
import json
import re
from contextlib import redirect_stdout

import numpy as np
import onnx
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from action_ddim import ActionDDIMPipeline, ActionTransformer1DModel, ExactDDIMScheduler, build_mask
from action_ddim.cli.main import main
from action_ddim.errors import UserError
from action_ddim.evaluation.model_card import read_card
from action_ddim.pretrained import load_pipeline
from action_ddim.serving.onnx_export import export_onnx
from action_ddim.serving.onnx_sampler import FILL_NAME, SAMPLE_NAME, OnnxActionSampler
from augmentation.gestures import GestureConfig, generate
from tests.conftest import SEQ_LEN
from tests.gaussian import make_scheduler

NUM_STEPS, NUM_LAYERS, WIDTH = 4, 1, 16
pytestmark = pytest.mark.slow  # as exporting is
TOLERANCE = 1e-4
RESULTS = "[{task: {type: reconstruction}, dataset: {type: held-out, name: mine}, metrics: [{type: mse, value: 0.25}]}]"
CARD = f"""---
license: cc0-1.0
model-index: [{{name: strokes, results: {RESULTS}}}]
---

| of the training data | value |
| --- | ---: |
| rate_hz | 500 |
"""


def make_pipeline(prediction_type: str = "sample", rest_head: bool = True, **changes) -> ActionDDIMPipeline:
    torch.manual_seed(0)
    denoiser = ActionTransformer1DModel(
        *(WIDTH, NUM_LAYERS, 2, 6, SEQ_LEN), rest_head=rest_head, input_timesteps=8 if prediction_type == "sample" else 0
    )
    for name, parameter in denoiser.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.1)
    pipeline = ActionDDIMPipeline(denoiser.eval(), make_scheduler(prediction_type, **changes))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def pipeline() -> ActionDDIMPipeline:
    return make_pipeline()


@pytest.fixture(scope="module")
def folder(pipeline, tmp_path_factory):
    """The pipeline as `action-ddim export` writes it, with a card beside it."""
    there = tmp_path_factory.mktemp("onnx")
    pipeline.save_pretrained(there / "pipeline")
    (there / "pipeline" / "README.md").write_text(CARD)
    words = ("--format", "onnx", "--num_inference_steps", NUM_STEPS, "--out", there / "exported")
    with redirect_stdout(io.StringIO()) as said:
        assert main(["export", "--model", str(there / "pipeline"), *map(str, words)]) == 0
    assert re.search(r"without torch \(fill.onnx 0\.\d+ MB, sample.onnx 0\.\d+ MB\)\n$", said.getvalue())
    return there / "exported"


@pytest.fixture(scope="module")
def sampler(folder) -> OnnxActionSampler:
    return OnnxActionSampler(folder)


def draw_latents(count: int) -> torch.Tensor:
    return torch.randn(count, SEQ_LEN, 3, generator=torch.Generator().manual_seed(count))


def draw_known(count: int) -> np.ndarray:
    return np.concatenate(list(generate(GestureConfig(count, sequence_length=SEQ_LEN))))


def assert_same(found: np.ndarray, expected: torch.Tensor, press_is_known: np.ndarray | bool = False) -> None:
    """Compare with what the pipeline returns as tensors, whose press is soft."""
    expected = expected.numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[..., :2], expected[..., :2], rtol=0, atol=TOLERANCE)
    near = (abs(expected[..., 2] - 0.5) < 1e-3) | press_is_known
    np.testing.assert_array_equal(found[..., 2][~near], (expected[..., 2] > 0.5)[~near])


@pytest.mark.parametrize("count", [1, 3, 64])
def test_draws_are_those_of_the_pipeline(count, pipeline, sampler):
    latents = draw_latents(count)
    expected = pipeline(latents=latents, num_inference_steps=NUM_STEPS, output_type="pt").actions
    assert_same(sampler(latents=latents.numpy()), expected)
    rests = (expected[:, 1:, :2] == expected[:, :-1, :2]).float().mean()
    assert 0.1 < rests < 0.9  # so that the decoding of rests is tried


MASKS = {
    "ends": build_mask(SEQ_LEN, start=True, end=True),
    "press and places": build_mask(SEQ_LEN, waypoints=[5, 6, 12], press=True),
    "prefix": build_mask(SEQ_LEN, prefix=7),
    "scattered": np.random.default_rng(1).random((SEQ_LEN, 3)) < 0.3,
}


@pytest.mark.parametrize("count", [1, 3, 64])
@pytest.mark.parametrize("words", MASKS)
def test_filled_in_actions_are_those_of_the_pipeline(words, count, pipeline, sampler):
    latents, mask = draw_latents(count), MASKS[words]
    known = draw_known(count)
    expected = pipeline(latents=latents, num_inference_steps=NUM_STEPS, known=known, mask=mask, output_type="pt").actions
    found = sampler.fill(known, mask, latents=latents.numpy())
    assert_same(found, expected, mask[:, 2])
    np.testing.assert_array_equal(found[:, mask], known[:, mask])


def test_one_known_action_serves_all_sequences(sampler):
    latents, mask = draw_latents(3).numpy(), MASKS["prefix"]
    known = draw_known(1)[0]
    filled = sampler.fill(known, mask, latents=latents)
    np.testing.assert_allclose(filled[1:2], sampler.fill(known, mask, latents=latents[1:2]), rtol=0, atol=1e-6)
    assert sampler.fill(known, mask, 5, seed=0).shape == (5, SEQ_LEN, 3)


@pytest.mark.slow
def test_epsilon_clipped_without_a_rest_head(tmp_path):
    assert_exported_is_same(make_pipeline("epsilon", rest_head=False, clip_sample=True), tmp_path / "exported")


@pytest.mark.slow
def test_trained_pipeline_of_velocities(run, tmp_path):
    folder = run(prediction_type="v_prediction") / "pipeline"
    sampler = assert_exported_is_same(load_pipeline(str(folder), "cpu"), tmp_path / "exported")
    assert f"value: {json.loads(sampler.metadata['metrics'])['mse']}\n" in (folder / "README.md").read_text()


def assert_exported_is_same(pipeline: ActionDDIMPipeline, folder) -> OnnxActionSampler:
    export_onnx(pipeline, folder, NUM_STEPS)
    sampler, latents, known, mask = OnnxActionSampler(folder, num_threads=2), draw_latents(3), draw_known(3), MASKS["ends"]
    assert_same(
        sampler(latents=latents.numpy()), pipeline(latents=latents, num_inference_steps=NUM_STEPS, output_type="pt").actions
    )
    expected = pipeline(latents=latents, num_inference_steps=NUM_STEPS, known=known, mask=mask, output_type="pt").actions
    assert_same(sampler.fill(known, mask, latents=latents.numpy()), expected)
    return sampler


@pytest.mark.parametrize("name", [SAMPLE_NAME, FILL_NAME])
def test_file_is_whole_and_its_batch_is_free(name, folder, pipeline):
    model = onnx.load(folder / name, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    for value in (*model.graph.input, *model.graph.output):
        sizes = [size.dim_value or size.dim_param for size in value.type.tensor_type.shape.dim]
        assert sizes == ["batch", SEQ_LEN, 3]
    assert {node.domain for node in model.graph.node} == {""}  # of ONNX itself, whatever runs it
    assert not any("Random" in node.op_type for node in model.graph.node)
    assert sorted(path.name for path in folder.iterdir()) == [FILL_NAME, SAMPLE_NAME]


def test_graph_is_as_small_as_it_can_be(folder, pipeline):
    graph = onnx.load(folder / SAMPLE_NAME).graph
    steps = [node for node in graph.node if not any("decode" in name for name in node.output)]
    count = {kind: sum(node.op_type == kind for node in steps) for kind in {node.op_type for node in steps}}
    assert count["Attention"] == NUM_LAYERS * NUM_STEPS
    # A norm takes its modulation as scale and shift: two a block, one of queries and keys, and the last.
    assert count["LayerNormalization"] == (3 * NUM_LAYERS + 1) * NUM_STEPS
    # The modulations are constants; heads stay beside each other, neighbours are gathered, zeros are padded.
    assert not {"Gemm", "Sin", "Transpose", "Expand", "Shape", "ConstantOfShape", "Where"} & set(count)
    # The network is there once, however many steps read it.
    floats = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT)
    folded = ("modulation", "time_embedding", "input_gate")
    network = sum(
        value.numel() for name, value in pipeline.denoiser.named_parameters() if not any(part in name for part in folded)
    )
    of_a_step = (6 * NUM_LAYERS + 2) * WIDTH + 20
    assert floats < network + pipeline.denoiser.positions.numel() + NUM_STEPS * of_a_step


def test_file_says_what_it_holds(sampler):
    assert (sampler.seq_len, sampler.num_inference_steps, sampler.rate_hz) == (SEQ_LEN, NUM_STEPS, 500)
    about = sampler.metadata
    assert json.loads(about["channels"]) == ["x", "y", "press"]
    assert (about["prediction_type"], about["license"]) == ("sample", "cc0-1.0")
    assert json.loads(about["metrics"]) == {"mse": 0.25}
    assert json.loads(about["versions"])["torch"] == torch.__version__


def test_card_that_says_nothing(tmp_path):
    assert read_card(tmp_path) == (None, None, None)
    (tmp_path / "README.md").write_text("Mine")
    assert read_card(tmp_path) == (None, None, None)


def test_seed_repeats_a_draw(sampler):
    first = sampler(5, seed=1)
    np.testing.assert_array_equal(sampler(5, seed=1), first)
    assert not np.array_equal(sampler(5, seed=2), first)
    assert not np.array_equal(sampler(5), sampler(5))


def test_sampler_needs_no_torch(folder, python, tmp_path):
    script = f"""
import sys
import numpy as np
from action_ddim.serving.onnx_sampler import OnnxActionSampler
sampler = OnnxActionSampler({str(folder)!r})
np.save("drawn.npy", sampler(3, seed=0))
sampler.fill(np.full(({SEQ_LEN}, 3), .5), np.ones(({SEQ_LEN}, 3), bool))
heavy = {{"torch", "diffusers", "onnx", "onnxscript", "accelerate", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""
    result = python("-c", script)
    assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "drawn.npy"), OnnxActionSampler(folder)(3, seed=0))


def test_what_graphs_cannot_hold_is_refused(pipeline, tmp_path):
    other = ActionDDIMPipeline(pipeline.denoiser, DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config))
    with pytest.raises(ValueError, match="not those of DPMSolverMultistepScheduler"):
        export_onnx(other, tmp_path / "exported")
    other = ActionDDIMPipeline(pipeline.denoiser, ExactDDIMScheduler.from_config(pipeline.scheduler.config, thresholding=True))
    with pytest.raises(ValueError, match="thresholding=False"):
        export_onnx(other, tmp_path / "exported")
    with pytest.raises(ValueError, match=r"float64 on cpu; give pipeline\.to"):
        export_onnx(make_pipeline().to(torch.float64), tmp_path / "exported")
    with pytest.raises(ValueError, match=r"not in 1\.\.1000"):
        export_onnx(pipeline, tmp_path / "exported", 1001)
    (tmp_path / "mine").write_text("")
    with pytest.raises(ValueError, match="is not an empty folder"):
        export_onnx(pipeline, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_does_not_fit_is_refused(sampler, tmp_path):
    known, mask = np.full((SEQ_LEN, 3), 0.5), MASKS["ends"]
    for call, message in (
        (lambda: sampler(0), "num_sequences is 0"),
        (lambda: sampler(latents=np.zeros((1, 9, 3))), r"latents have the shape \(1, 9, 3\), not"),
        (lambda: sampler(latents=np.full((1, SEQ_LEN, 3), np.nan)), "latents hold NaN"),
        (lambda: sampler.fill(known, mask.astype(int)), "mask holds int64, not booleans"),
        (lambda: sampler.fill(known, mask[:5]), "does not fit known"),
        (lambda: sampler.fill(known, mask & False), "mask is False throughout"),
        (lambda: sampler.fill(known + 1, mask), r"outside \[0, 1\]"),
        (lambda: sampler.fill(np.stack([known] * 2), mask, 3), "2 known actions were given for 3 sequences"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(UserError, match="action-ddim export --format onnx"):
        OnnxActionSampler(tmp_path)
