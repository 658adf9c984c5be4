"""The verbs for a finished model: `evaluate`, `sample`, `reconstruct` and `export`. `main.py` gives them their doors.

Each takes the arguments after it, does its work, and raises a UserError for a mistake.
"""

import argparse
import inspect
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError

from action_ddim.actions import NUM_CHANNELS, threshold_press
from action_ddim.cli.inputs import (
    OneLineParser,
    add_compile,
    add_model,
    add_output,
    check_actions,
    check_at_least,
    check_outputs,
    check_steps,
    model_parser,
    open_data,
)
from action_ddim.cli.outputs import check_new_folder, check_output, check_writable, write_actions, write_plot
from action_ddim.data.features import GESTURE_TYPES, gesture_types
from action_ddim.errors import UserError
from action_ddim.pretrained import load_pipeline

if TYPE_CHECKING:
    from action_ddim.pipeline import ActionDDIMPipeline

ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
NOISE_MARGIN = 0.1  # of the screen, by which noise may take places outside it
MOST_DRAWS = 100  # for each sequence of a type that is asked for

# torch, diffusers and matplotlib take seconds to import: --help and mistakes in the flags do not wait for them.


def evaluate(argv: list[str], prog: str | None) -> None:
    """Measure a model on held-out data, and report."""
    parser = model_parser(prog, evaluate.__doc__, batch_size=256)
    add = parser.add_argument
    add("--data_dir", required=True, help="folder of held-out data, *_actions.npy")
    add("--out", type=Path, help="folder to write report.json and report.html to, made if missing")
    add("--update_card", action="store_true", help="write how real drawn actions look into the model card of --model")
    add("--num", type=int, default=1000, help="held-out sequences to reconstruct, at most")
    add("--num_samples", type=int, default=1000, help="sequences to draw from noise")
    add("--num_inverted", type=int, default=64, help="held-out sequences to invert, at most")
    add("--recon_steps", type=int, default=10, help="DDIM steps of a reconstruction, over the whole schedule")
    add("--num_inference_steps", type=int, default=50, help="DDIM steps of a drawn sequence")
    add_compile(parser)
    args = parser.parse_args(argv)
    check_at_least(args, 1, "num", "num_samples", "num_inverted", "recon_steps", "num_inference_steps", "batch_size")
    from action_ddim.evaluation.page import HTML_NAME, JSON_NAME

    if args.out:
        for name in (JSON_NAME, HTML_NAME):
            check_output("--out", args.out / name, args.overwrite)
    card = _find_card(args.model) if args.update_card else None
    from action_ddim.evaluation.evaluate import AssessmentSettings, assess
    from action_ddim.evaluation.realism import check_eval_packages
    from action_ddim.evaluation.report import tables, update_card, write_report

    check_eval_packages()
    pipeline = load_pipeline(args.model, args.device, compiled=args.compile)
    check_steps(args, pipeline, "recon_steps", "num_inference_steps")
    from diffusers import DDIMScheduler

    if not isinstance(pipeline.scheduler, DDIMScheduler):
        solver = type(pipeline.scheduler).__name__
        raise UserError(f"--model {args.model} has a {solver}, which cannot be inverted; save it with an ExactDDIMScheduler")
    data = open_data(args.data_dir, args.model, pipeline.denoiser.config.seq_len)
    settings = AssessmentSettings(
        num_sequences=args.num,
        num_samples=args.num_samples,
        num_inverted=args.num_inverted,
        recon_steps=args.recon_steps,
        sample_steps=args.num_inference_steps,
        batch_size=args.batch_size,
        seed=args.seed,
    )
    assessment, pictures = assess(pipeline, data, settings)
    print("\n\n".join(table.to_text() for table in tables(assessment)))
    if args.out:
        write_report(args.out, assessment, pictures, args.model, args.data_dir)
        print(f"\nreport: {args.out / HTML_NAME}   numbers: {args.out / JSON_NAME}")
    if card:
        update_card(card, assessment)
        print(f"model card: {card}")


def _find_card(model: str) -> Path:
    """Return the model card that is to be written to."""
    from action_ddim.export import CARD_NAME

    card = Path(model) / CARD_NAME
    if not card.is_file():
        raise UserError(f"--update_card: --model {model} has no {CARD_NAME}; name the pipeline/ that a training run leaves")
    check_writable("--update_card", card)
    return card


def sample(argv: list[str], prog: str | None) -> None:
    """Draw new actions from noise."""
    parser = model_parser(prog, sample.__doc__, batch_size=256)
    add = parser.add_argument
    add("--num", type=int, required=True, help="sequences to draw")
    add_output(parser)
    add("--num_inference_steps", type=int, default=50, help="DDIM steps")
    add("--eta", type=float, default=0.0, help="share of fresh noise in each step: 0 is DDIM, 1 is DDPM")
    add(
        "--gesture",
        choices=GESTURE_TYPES,
        help="draw until there are --num of this type, and say how many others came; all by default",
    )
    add_compile(parser)
    args = parser.parse_args(argv)
    check_at_least(args, 1, "num", "num_inference_steps", "batch_size")
    if not 0 <= args.eta <= 1:
        raise UserError(f"--eta is {args.eta:g}; give 0 to 1")
    check_outputs(args)
    pipeline = load_pipeline(args.model, args.device, compiled=args.compile)
    check_steps(args, pipeline, "num_inference_steps")
    if args.eta and "eta" not in inspect.signature(pipeline.scheduler.step).parameters:
        solver = type(pipeline.scheduler).__name__
        raise UserError(f"--eta is {args.eta:g}, and --model {args.model} has a {solver}; leave it out")
    from action_ddim.evaluation import plots
    from action_ddim.evaluation.evaluate import NUM_SHEET, draw_samples

    steps, seq_len = args.num_inference_steps, pipeline.denoiser.config.seq_len
    most = args.num if args.gesture is None else args.num * MOST_DRAWS
    drawn = draw_samples(pipeline, most, num_inference_steps=steps, eta=args.eta, seed=args.seed, batch_size=args.batch_size)
    batches = drawn if args.gesture is None else _of_type(args.gesture, drawn, args.num)
    shown = write_actions(args.out, (args.num * seq_len, NUM_CHANNELS), batches, keep=NUM_SHEET)
    print(f"{args.num} sequences of {seq_len} steps are in {args.out}")
    write_plot(args.plot, lambda: plots.plot_samples(np.stack(shown)))


def _of_type(gesture: str, batches: Iterator[np.ndarray], num: int) -> Iterator[np.ndarray]:
    """Yield those of the drawn actions that are of a gesture type, `num` in all; say what share of the draws that is."""
    found = drawn = 0
    for batch in batches:
        accepted = np.flatnonzero(gesture_types(batch) == GESTURE_TYPES.index(gesture))[: num - found]
        found += len(accepted)
        # The draws behind the last one that is taken count for nothing.
        drawn += len(batch) if found < num else accepted[-1] + 1
        yield batch[accepted]
        if found == num:
            print(f"{found} of {drawn} draws, {found / drawn:.1%}, are of the type {gesture}")
            return
    raise UserError(
        f"--gesture {gesture}: {found} of {drawn} draws are of that type; ask for fewer, or train on data that holds it"
    )


def reconstruct(argv: list[str], prog: str | None) -> None:
    """Noise recorded actions and denoise them again, or take the noise off that they have."""
    parser = model_parser(prog, reconstruct.__doc__, batch_size=256)
    add = parser.add_argument
    add("--input", type=Path, required=True, help="recorded actions, .npy, (rows, 3) or (N, L, 3)")
    add_output(parser)
    add("--noise_std", help="clean: standard deviation of the jitter on x and y, in screens, or auto to estimate it")
    add("--strength", type=float, default=0.5, help="without --noise_std: how far up the noise schedule to go, above 0 to 1")
    steps = "without --noise_std: DDIM steps over the whole schedule; the strength's share is taken"
    add("--num_inference_steps", type=int, default=10, help=steps)
    add_compile(parser)
    args = parser.parse_args(argv)
    check_at_least(args, 1, "num_inference_steps", "batch_size")
    if not 0 < args.strength <= 1:
        raise UserError(f"--strength is {args.strength:g}; give a fraction above 0, up to 1")
    noise_std = _check_noise(args.noise_std)
    check_outputs(args)
    if args.out.resolve() == args.input.resolve():
        raise UserError(f"--out {args.out} is the --input; name another file")
    if not args.input.is_file():
        raise UserError(f"--input {args.input} is not a file")
    pipeline = load_pipeline(args.model, args.device, compiled=args.compile)
    check_steps(args, pipeline, "num_inference_steps")
    from action_ddim.data.action_file import open_action_file
    from action_ddim.evaluation import inference, plots
    from action_ddim.evaluation.evaluate import clean_batches, reconstruct_batches

    seq_len = pipeline.denoiser.config.seq_len
    recording = open_action_file(args.input, seq_len, remedy=f"--model {args.model} takes {seq_len}: cut it so")
    with recording.open() as file:
        actions = recording.read(file, 0, recording.num_sequences)
    check_actions(args.input, actions, args.batch_size, margin=0.0 if args.noise_std is None else NOISE_MARGIN)
    settings = inference.ReconstructionSettings(args.seed, args.strength, args.num_inference_steps)
    shape = np.load(args.input, mmap_mode="r", allow_pickle=False).shape
    if args.noise_std is None:
        soft = reconstruct_batches(pipeline, actions, np.arange(len(actions)), settings, args.batch_size)
        batches: Iterator[np.ndarray] = (threshold_press(batch) for batch in soft)
        done = "reconstructed"
    else:
        noise_std, batches = clean_batches(pipeline, actions, noise_std, args.batch_size)
        done = f"cleaned (noise of {noise_std:.5f} screens, {noise_std * 1920:.1f} px of 1920)"
        if noise_std == 0:
            done = "as they were (no noise is found, since most steps rest or go straight on; give --noise_std a number)"
    written = write_actions(args.out, shape, batches, keep=plots.MAX_ROWS)
    print(f"{len(actions)} sequences of {seq_len} steps, {done}, are in {args.out}")

    def figure():
        shown = np.array(actions[: plots.MAX_ROWS], dtype=np.float32)
        noisy = shown
        if args.noise_std is None:
            noisy = inference.noised(pipeline, shown, np.arange(len(shown)), settings)
        return plots.plot_reconstructions(shown, noisy, np.stack(written))

    write_plot(args.plot, figure)


def _check_noise(noise_std: str | None) -> float | None:
    """Read what `--noise_std` says; None where there is nothing said, or the noise is to be estimated."""
    if noise_std in (None, "auto"):
        return None
    try:
        value = float(noise_std)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise UserError(f"--noise_std is {noise_std}; give a number of screens above 0, such as 0.005, or auto")
    return value


def export(argv: list[str], prog: str | None) -> None:
    """Write a model to load without this package, with its code, or as ONNX graphs to run without torch."""
    parser = OneLineParser(prog=prog, description=export.__doc__)
    add_model(parser)
    add = parser.add_argument
    out = "folder to write, made if missing; one that is empty otherwise"
    add("--out", type=Path, required=True, help=out)
    add("--format", choices=("pipeline", "onnx"), default="pipeline", help="weights with their code, or graphs for onnxruntime")
    add("--num_inference_steps", type=int, default=10, help="onnx: DDIM steps, fixed in the graphs")
    args = parser.parse_args(argv)
    if args.num_inference_steps < 1:
        raise UserError(f"--num_inference_steps is {args.num_inference_steps}; give at least 1")
    check_new_folder("--out", args.out)
    missing = [package for package in ONNX_PACKAGES if args.format == "onnx" and not find_spec(package)]
    if missing:
        raise UserError(f'--format onnx needs {missing[0]}, which is missing: pip install "action-ddim[onnx]"')
    pipeline = load_pipeline(args.model, "cpu")
    try:
        if args.format == "pipeline":
            pipeline.export(args.out)
            print(f"DiffusionPipeline.from_pretrained({str(args.out)!r}, trust_remote_code=True) loads it anywhere")
        else:
            check_steps(args, pipeline, "num_inference_steps")
            _export_onnx(pipeline, args)
    except (OSError, SafetensorError) as error:
        raise UserError(f"--out {args.out} cannot be written: {getattr(error, 'strerror', None) or error}") from error


def _export_onnx(pipeline: "ActionDDIMPipeline", args: argparse.Namespace) -> None:
    from action_ddim.serving.onnx_export import check_exportable, export_onnx

    try:
        check_exportable(pipeline)
    except ValueError as error:
        raise UserError(f"--model {args.model}: {error}") from error
    export_onnx(pipeline, args.out, args.num_inference_steps)
    sizes = ", ".join(f"{path.name} {path.stat().st_size / 1e6:.2f} MB" for path in sorted(args.out.iterdir()))
    print(f"OnnxActionSampler({str(args.out)!r}) of action_ddim.serving.onnx_sampler runs it without torch ({sizes})")
