"""A pipeline as ONNX graphs: the whole way from latents to actions, all steps of it, in one file.

torch's exporter writes one step and the decoding, each with a dynamic batch, from the very code that the pipeline runs. What of
a step follows from its timestep alone, the modulations of every block among it, becomes constants; S such steps, which share
their weights, and the decoding are joined. (Exported as a whole, S steps with a dynamic batch do not come to an end.)
"""

import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from onnx_ir.passes import common as passes
from torch import nn
from tqdm.auto import tqdm

from action_ddim import __version__
from action_ddim.actions import CHANNELS
from action_ddim.atomic import put_in_place
from action_ddim.denoiser import NUM_AXES
from action_ddim.evaluation.model_card import CardFacts, read_card
from action_ddim.inpainting import Known
from action_ddim.pipeline import ActionDDIMPipeline
from action_ddim.scheduler import ExactDDIMScheduler, StepCoefficients
from action_ddim.serving.onnx_rewriting import OPSET, REWRITING, TRANSLATIONS
from action_ddim.serving.onnx_sampler import FILL_NAME, SAMPLE_NAME

IR_VERSION = 11  # of opset 23
NUM_SETTLED = 3  # inputs of a step that follow from its number: timestep, alpha_bar, coefficients


class _ScheduleByNumbers(ExactDDIMScheduler):
    """Takes the coefficients of a step, a tensor, in the place of its timestep, so that one export serves all steps."""

    def _step_coefficients(self, timestep, eta, dtype):
        return StepCoefficients(*timestep.to(dtype))


class _Step(nn.Module):
    """One step of the pipeline: from a sample to the next, and what the network says of which steps move, if it does."""

    def __init__(self, pipeline: ActionDDIMPipeline):
        super().__init__()
        self.denoiser = pipeline.denoiser
        self.predict = pipeline._predict
        self.scheduler = _ScheduleByNumbers.from_config(pipeline.scheduler.config)

    def forward(self, timestep, alpha_bar, coefficients, sample, known=None, mask=None):
        given = None if known is None else Known(known, mask)
        output, move_logits = self.predict(sample, timestep, alpha_bar, given, None, 1.0)
        sample = self.scheduler.step(output, coefficients, sample, return_dict=False)[0]
        return (sample,) if move_logits is None else (sample, move_logits)


class _Decode(nn.Module):
    """Clean samples as the pipeline's actions."""

    def __init__(self, pipeline: ActionDDIMPipeline):
        super().__init__()
        self.decode = pipeline._decode

    def forward(self, sample, move_logits, known=None, mask=None):
        return self.decode(sample, move_logits, "np", None if known is None else Known(known, mask))


def export_onnx(pipeline: ActionDDIMPipeline, folder: str | os.PathLike, num_inference_steps: int = 10) -> None:
    """Write `sample.onnx`, from latents to actions, and `fill.onnx`, which takes what is known too, to a folder.

    All are `(N, L, 3)`, with any N; the number of steps is fixed in the files, and the steps are deterministic (eta 0).
    `OnnxActionSampler` runs them.

    Args:
        pipeline: With an `ExactDDIMScheduler`, and weights in float32.
        folder: To write, made if missing; one that is empty otherwise.
        num_inference_steps: S, 1 to the number of training timesteps.

    Raises:
        ValueError: the pipeline's scheduler or weights are others, S is out of range, or the folder is not empty.
    """
    folder = Path(os.path.abspath(folder))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder; name a new one")
    check_exportable(pipeline)
    scheduler = ExactDDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(num_inference_steps)
    about = _describe(pipeline, num_inference_steps)
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        for name in tqdm((SAMPLE_NAME, FILL_NAME), unit="graph", disable=None):
            model = _join(pipeline, scheduler, fills=name == FILL_NAME)
            model.metadata_props.update(about)
            (partial / name).write_bytes(ir.to_proto(model).SerializeToString())
        put_in_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_exportable(pipeline: ActionDDIMPipeline) -> None:
    """Raise a ValueError where the graphs cannot hold what a pipeline does."""
    scheduler = pipeline.scheduler
    if not isinstance(scheduler, ExactDDIMScheduler):
        raise ValueError(
            f"the graphs hold exact DDIM steps, not those of {type(scheduler).__name__};"
            " give pipeline.scheduler = ExactDDIMScheduler.from_config(pipeline.scheduler.config)"
        )
    if scheduler.config.thresholding:
        raise ValueError("the graphs know no dynamic thresholding; make the scheduler with thresholding=False")
    if pipeline.denoiser.dtype != torch.float32 or pipeline.denoiser.device.type != "cpu":
        raise ValueError(
            f"the weights are {pipeline.denoiser.dtype} on {pipeline.denoiser.device}; give pipeline.to('cpu', torch.float32)"
        )


def _describe(pipeline: ActionDDIMPipeline, num_inference_steps: int) -> dict[str, str]:
    """Return what a file says of itself; numbers and lists are JSON."""
    config, scheduler = pipeline.denoiser.config, pipeline.scheduler.config
    packages = {name: version(name) for name in ("torch", "diffusers", "onnx", "onnxscript")}
    card = read_card(Path(pipeline.name_or_path)) if pipeline.name_or_path else CardFacts()
    about = {
        "channels": CHANNELS,
        "seq_len": config.seq_len,
        "num_inference_steps": num_inference_steps,
        "prediction_type": scheduler.prediction_type,
        "rest_head": config.rest_head,
        "rate_hz": card.rate_hz,
        "license": card.license or "not stated",
        "metrics": card.metrics,
        "versions": {"action_ddim": __version__, **packages, "opset": OPSET},
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in about.items() if value is not None}


def _join(pipeline: ActionDDIMPipeline, scheduler: ExactDDIMScheduler, fills: bool) -> ir.Model:
    """Join the steps that the scheduler chose, and the decoding, to a graph from `latents` to `actions`."""
    config = pipeline.denoiser.config
    shape = (config.seq_len, config.in_channels)
    step, decode = _export_parts(pipeline, fills)
    settled, step = _split(step)
    settle = onnxruntime.InferenceSession(ir.to_proto(ir.Model(settled, ir_version=IR_VERSION)).SerializeToString())

    def make_input(name: str, dtype: ir.DataType) -> ir.Value:
        return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(["batch", *shape]))

    known = [make_input("known", ir.DataType.FLOAT), make_input("mask", ir.DataType.BOOL)] if fills else []
    graph = ir.Graph(
        [make_input("latents", ir.DataType.FLOAT), *known], [], nodes=[], opset_imports={"": OPSET}, name="actions"
    )
    said = list(graph.inputs[:1])
    for number, timestep in enumerate(scheduler.timesteps.tolist()):
        coefficients = np.array(scheduler._step_coefficients(timestep, 0.0, torch.float64))
        values = (np.array([timestep]), np.array(scheduler.alphas_cumprod[timestep].item()), coefficients)
        names = (value.name for value in settled.inputs)
        found = zip(settled.outputs, settle.run(None, dict(zip(names, values, strict=True))), strict=True)
        constants = [_add_constant(graph, f"step_{number}.{value.name}", array) for value, array in found]
        said = _append(graph, step, [said[0], *known, *constants], f"step_{number}")
    (actions,) = _append(graph, decode, [*said, *known], "decode")
    actions.name, actions.shape = "actions", ir.Shape(["batch", *shape])
    graph.outputs.append(actions)
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="action_ddim", producer_version=__version__)
    # What follows from the mask alone is the same in every step; the logits of all steps but the last are not looked at.
    for tidy in (
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.DeduplicateHashedInitializersPass(),
    ):
        tidy(model)
    return model


def _export_parts(pipeline: ActionDDIMPipeline, fills: bool) -> tuple[ir.Graph, ir.Graph]:
    """Export a step and the decoding; the values of these examples do not matter."""
    config = pipeline.denoiser.config
    shape = (2, config.seq_len, config.in_channels)
    settled = (torch.tensor([0]), torch.tensor(0.5).double(), torch.full((5,), 0.5).double())
    known = (torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)) if fills else ()
    logits = torch.zeros(2, config.seq_len - 1, NUM_AXES) if config.rest_head else None
    step = _export(_Step(pipeline), *settled, torch.zeros(shape), *known)
    for node in step:
        # The timestep is one for all sequences; repeated for each of them, it would settle nothing.
        if node.op_type == "Expand" and node.inputs[0] is step.inputs[0]:
            node.outputs[0].replace_all_uses_with(step.inputs[0])
    model = ir.Model(step, ir_version=IR_VERSION)
    REWRITING.apply_to_model(model)
    passes.RemoveUnusedNodesPass()(model)
    return step, _export(_Decode(pipeline), torch.zeros(shape), logits, *known)


def _export(module: nn.Module, *examples: torch.Tensor | None) -> ir.Graph:
    """Export a module whose three-dimensional inputs have a dynamic batch."""
    batched = tuple({0: "batch"} if value is not None and value.ndim == 3 else None for value in examples)
    with _in_silence(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            examples,
            dynamo=True,
            dynamic_shapes=batched,
            opset_version=OPSET,
            custom_translation_table=TRANSLATIONS,
            verbose=False,
        )
    assert program is not None
    return program.model.graph


@contextmanager
def _in_silence() -> Iterator[None]:
    """Keep the exporter from telling of packages that nobody asked for, and of its own names."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


def _split(step: ir.Graph) -> tuple[ir.Graph, ir.Graph]:
    """Split a step into what follows from its number and the weights alone, and the rest.

    The rest takes the other inputs, and after them what the first part gives.
    """
    settled = {*step.inputs[:NUM_SETTLED], *step.initializers.values()}
    border: dict[ir.Value, None] = {}
    for node in step:
        if all(value is None or value in settled for value in node.inputs):
            settled.update(node.outputs)
        else:
            border |= {value: None for value in node.inputs if value in settled and not value.is_initializer()}
    first = ir.convenience.extract(step, step.inputs[:NUM_SETTLED], list(border))
    return first, ir.convenience.extract(step, [*step.inputs[NUM_SETTLED:], *border], step.outputs)


def _append(graph: ir.Graph, part: ir.Graph, inputs: list[ir.Value], name: str) -> list[ir.Value]:
    """Append a copy of a part to a graph, and return its outputs there; the weights of a part are shared by its copies."""
    values: dict[Any, Any] = {None: None, **dict(zip(part.inputs, inputs, strict=True))}
    for value in part.initializers.values():
        shared = f"{name.split('_')[0]}.{value.name}"
        if shared not in graph.initializers:
            _add_constant(graph, shared, _array(value))
        values[value] = graph.initializers[shared]
    for node in part:
        taken = [values[value] for value in node.inputs]
        if node.op_type == "Where" and taken[0].is_initializer() and _array(taken[0]).size == 1:
            values[node.outputs[0]] = taken[1 if _array(taken[0]).all() else 2]
            continue
        outputs = [ir.Value(name=f"{name}.{value.name}", type=value.type) for value in node.outputs]
        graph.append(ir.Node(node.domain, node.op_type, taken, node.attributes.values(), outputs=outputs))
        values |= zip(node.outputs, outputs, strict=True)
    return [values[value] for value in part.outputs]


def _array(constant: ir.Value) -> np.ndarray:
    assert constant.const_value is not None
    return constant.const_value.numpy()


def _add_constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
    shape = ir.Shape(array.shape)
    constant = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
    graph.register_initializer(constant)
    return constant
