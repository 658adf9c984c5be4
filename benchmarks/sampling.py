"""Time a plan, and measure how real drawn actions look, by number of steps and eta, in one run.

    python benchmarks/sampling.py --model checkpoints/pipeline    # both tables, a few minutes on two CPU cores
    python benchmarks/sampling.py --help

Speed: from noise to actions in [0, 1], drawing the noise included, on the CPU.

ours      `ActionDDIMPipeline`; with --compile once more with its denoiser compiled, compiling not timed.
stock     diffusers' `DDIMScheduler` in the loop of diffusers' pipelines, over the same denoiser.
onnx      with --onnx: exported, `OnnxActionSampler`; and how long a process of each takes to its first plan, and its memory.
unet      diffusers' `UNet1DModel` of about as many parameters in that loop; its weights, untrained, change no time.
ddpm      diffusers' `DDPMScheduler` in that loop over the same denoiser, every training timestep.

Quality: the axes of table 1 of arXiv 2010.02502, figures of `action_ddim.evaluation.realism` in the place of the FID, each
beside the same figure between two halves of the held-out actions. Needs the extra `eval`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm
from training import count_parameters, find_unet_widths, make_unet  # the script beside this one

from action_ddim.actions import from_model_space, threshold_press
from action_ddim.cli.inputs import open_data
from action_ddim.data.features import action_features
from action_ddim.errors import UserError
from action_ddim.evaluation.evaluate import draw_samples
from action_ddim.evaluation.realism import MAX_SEQUENCES, MIN_SEQUENCES, check_eval_packages, measure_realism
from action_ddim.evaluation.tables import Table
from action_ddim.pretrained import load_pipeline
from augmentation.gestures import GestureConfig, generate

NUM_HELD_OUT, HELD_OUT_SEED = 1000, 1  # of the generator: the documented validation data
UNET_FACTOR = 8  # the U-Net halves the length three times
SLOW_STEPS = 1000  # from here on, fewer repeats and fewer samples
QUICK = {"rounds": 1, "repeats": 2, "throughput_batch": 4, "num_samples": MIN_SEQUENCES, "steps": [5, 10], "etas": [0.0, 1.0]}


# Of a process of its own: from its start to its first plan.
START_UPS = {
    "ours: ActionDDIMPipeline": "from action_ddim.pretrained import load_pipeline; plan = load_pipeline(sys.argv[1], 'cpu')",
    "onnx: OnnxActionSampler": "from action_ddim.serving.onnx_sampler import OnnxActionSampler as S; plan = S(sys.argv[1])",
}
# By Linux: what getrusage calls the largest size begins with that of the process which this one was forked from.
SAY_SIZE = "plan(1); print(int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize())"


class Contender(NamedTuple):
    """What is timed: `plan` makes actions `(B, L, 3)` in [0, 1], an array, of noise, in `num_steps` passes of a network."""

    label: str
    num_parameters: int
    num_steps: int
    plan: Callable[[torch.Tensor], np.ndarray]


@torch.no_grad()
def plan_by_loop(denoise: Callable, scheduler: Any, num_steps: int, sample: torch.Tensor) -> np.ndarray:
    """Walk down a scheduler's timesteps as the pipelines of diffusers do, deterministically where the scheduler is."""
    scheduler.set_timesteps(num_steps)
    for timestep in scheduler.timesteps:
        sample = scheduler.step(denoise(sample, timestep), timestep, sample, return_dict=False)[0]
    return threshold_press(from_model_space(sample)).numpy()


def load_compiled(args: argparse.Namespace) -> Any:
    """Load the pipeline, and have its denoiser compiled for both batch sizes."""
    pipeline = load_pipeline(args.model, "cpu", compiled=True)
    try:
        for batch in (1, args.throughput_batch):
            pipeline(batch, num_inference_steps=1)
    except RuntimeError as error:  # every failure of torch's compiler is one
        reason = str(error).strip().splitlines()[0]
        message = f"--compile: torch {torch.__version__} cannot compile the denoiser ({reason}); leave --compile out"
        raise UserError(message) from error
    return pipeline


def make_contenders(args: argparse.Namespace, pipeline: Any) -> list[Contender]:
    from diffusers import DDIMScheduler, DDPMScheduler

    denoiser, config, steps = pipeline.denoiser, pipeline.scheduler.config, args.plan_steps
    num_parameters = count_parameters(denoiser)
    widths = find_unet_widths(num_parameters)
    unet = make_unet(widths).eval()

    def denoise(sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return denoiser(sample, timestep, return_dict=False)[0]

    def denoise_by_unet(sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        length = sample.shape[1]
        padded = F.pad(sample.transpose(1, 2), (0, -length % UNET_FACTOR))  # (B, 3, 256) for L = 250
        return unet(padded, timestep, return_dict=False)[0][..., :length].transpose(1, 2)

    def plan_by_pipeline(planner: Any, latents: torch.Tensor) -> np.ndarray:
        return planner(latents=latents, num_inference_steps=steps).actions

    ours = [Contender("ours: ActionDDIMPipeline", num_parameters, steps, partial(plan_by_pipeline, pipeline))]
    if args.compile:
        compiled = load_compiled(args)
        ours.append(Contender("ours, denoiser compiled", num_parameters, steps, partial(plan_by_pipeline, compiled)))
    if args.onnx:
        from action_ddim.serving.onnx_sampler import OnnxActionSampler

        sampler = OnnxActionSampler(args.exported, args.threads)
        plan_by_graph = Contender(
            "onnx: OnnxActionSampler", num_parameters, steps, lambda latents: sampler(latents=latents.numpy())
        )
        ours.append(plan_by_graph)
    stock, ddpm = DDIMScheduler.from_config(config), DDPMScheduler.from_config(config)
    loops = [
        ("stock: DDIMScheduler, same denoiser", num_parameters, denoise, stock, steps),
        ("unet: UNet1DModel " + "/".join(map(str, widths)), count_parameters(unet), denoise_by_unet, stock, steps),
        ("ddpm: DDPMScheduler, same denoiser", num_parameters, denoise, ddpm, config.num_train_timesteps),
    ]
    by_loop = [
        Contender(label, size, num_steps, partial(plan_by_loop, network, scheduler, num_steps))
        for label, size, network, scheduler, num_steps in loops
    ]
    return ours + by_loop


def time_plans(contenders: list[Contender], shape: tuple[int, ...], rounds: int, repeats: int, slow_rounds: int) -> list[float]:
    """Return the median seconds a plan of each contender, which take turns; slow ones plan once in each of their rounds."""
    slow = [contender.num_steps >= SLOW_STEPS for contender in contenders]
    total = sum(slow_rounds if is_slow else rounds * repeats for is_slow in slow)
    seconds: list[list[float]] = [[] for _ in contenders]
    with tqdm(total=total, unit="plan") as progress:
        for number in range(rounds):
            for contender, is_slow, measured in zip(contenders, slow, seconds, strict=True):
                progress.set_description(f"batch {shape[0]}, round {number + 1}/{rounds}, {contender.label.split(':')[0]}")
                if not is_slow:
                    contender.plan(torch.randn(shape))  # warms the caches, and compiles in the first round
                for _ in range(number < slow_rounds if is_slow else repeats):
                    started = time.perf_counter()
                    contender.plan(torch.randn(shape))
                    measured.append(time.perf_counter() - started)
                    progress.update()
    return [median(measured) for measured in seconds]


def measure_speed(args: argparse.Namespace, pipeline: Any) -> Table:
    """Time all contenders, one plan at a time and then many at once, on `--threads` threads."""
    num_threads, config = torch.get_num_threads(), pipeline.denoiser.config
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    contenders, shape = make_contenders(args, pipeline), (config.seq_len, config.in_channels)
    noise = torch.randn(1, *shape)
    # The U-Net and DDPM, the last two, plan something else.
    apart = {each.label.split(":")[0]: np.abs(each.plan(noise) - contenders[0].plan(noise)).max() for each in contenders[1:-2]}
    single = time_plans(contenders, (1, *shape), args.rounds, args.repeats, slow_rounds=args.rounds)
    batch = args.throughput_batch
    many = time_plans(contenders, (batch, *shape), min(3, args.rounds), 1, slow_rounds=1)
    torch.set_num_threads(num_threads)
    rows = tuple(
        (
            contender.label,
            f"{contender.num_parameters:,}",
            f"{contender.num_steps}",
            f"{1000 * seconds:.1f}",
            f"{seconds / single[0]:.2f}",
            f"{batch / seconds_of_many:.1f}",
            f"{seconds_of_many / many[0]:.2f}",
        )
        for contender, seconds, seconds_of_many in zip(contenders, single, many, strict=True)
    )
    at_batch = f"sequences/s, batch {batch}"
    columns = ("", "parameters", "steps", "ms a plan, batch 1", "x ours", at_batch, "x ours there")
    differences = ", ".join(f"{label} {difference:.1g}" for label, difference in apart.items())
    note = (
        f"plans of {shape[0]} x {shape[1]}; CPU, {args.threads} thread(s), torch {torch.__version__}; medians\n"
        "x ours: how many times longer a plan takes than ours\n"
        f"largest difference of a plan from ours, same noise: {differences}"
    )
    return Table("Speed", columns, rows, note)


def measure_start(args: argparse.Namespace) -> Table:
    """Time whole processes of the pipeline and of the exported graphs, which take turns, to the end of their first plan."""
    models = dict(zip(START_UPS, (args.model, args.exported), strict=True))
    measured: dict[str, list[tuple[float, float]]] = {label: [] for label in START_UPS}
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    for _ in tqdm(range(min(3, args.rounds)), unit="round", desc="start-up"):
        for label, start in START_UPS.items():
            words = [sys.executable, "-c", f"import resource, sys; {start}; {SAY_SIZE}", models[label]]
            started = time.perf_counter()
            size = subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout
            measured[label].append((time.perf_counter() - started, int(size) / 1e6))
    medians = {label: np.median(pairs, axis=0) for label, pairs in measured.items()}
    rows = tuple((label, f"{seconds:.2f}", f"{size:.0f}") for label, (seconds, size) in medians.items())
    return Table("Start-up", ("", "seconds to the first plan", "resident MB then"), rows, "processes of their own; medians")


def held_out_actions(args: argparse.Namespace, seq_len: int) -> np.ndarray:
    """Return the actions to compare with, as many as the figures of realism can use."""
    if args.data_dir is None:
        config = GestureConfig(num_sequences=NUM_HELD_OUT, sequence_length=seq_len, seed=HELD_OUT_SEED)
        return np.concatenate(list(generate(config)))
    data = open_data(args.data_dir, args.model, seq_len)
    chosen = np.random.default_rng(args.seed).permutation(len(data))[: 2 * MAX_SEQUENCES]
    if len(chosen) < 2 * MIN_SEQUENCES:
        raise UserError(f"--data_dir {args.data_dir} holds {len(data)} sequences; the figures take {2 * MIN_SEQUENCES}")
    return data.read(np.sort(chosen)).numpy()


def single_press_share(actions: np.ndarray) -> float:
    return float((action_features(actions)["num_presses"] == 1).mean())


def measure_quality(args: argparse.Namespace, pipeline: Any, real: np.ndarray) -> Table:
    """Draw actions at each number of steps and eta, and compare them with held-out ones."""
    names = {"classifier_accuracy": "classifier accuracy", "frechet_distance": "Frechet distance"}
    row_names = [*(f"eta {eta:g}" for eta in args.etas), "real beside real"]
    figures = (*names.values(), "exactly one press")
    cells: dict[str, list[list[str]]] = {figure: [[] for _ in row_names] for figure in figures}
    counts = [min(args.num_samples, args.slow_samples) if S >= SLOW_STEPS else args.num_samples for S in args.steps]
    total = len(args.etas) * sum(S * count for S, count in zip(args.steps, counts, strict=True))
    with tqdm(total=total, unit="pass", unit_scale=True) as progress:
        for S, count in zip(args.steps, counts, strict=True):
            for row, eta in enumerate(args.etas):
                progress.set_description(f"{S} steps, eta {eta:g}")
                settings = {"num_inference_steps": S, "eta": eta, "seed": args.seed, "batch_size": args.batch_size}
                samples = np.concatenate(list(draw_samples(pipeline, count, **settings)))
                compared = measure_realism(samples, real, args.seed, judged=False).figures
                for name, figure in names.items():
                    cells[figure][row].append(f"{compared[name].value:.3f}")
                    if row == 0:  # the same halves are compared at every eta
                        cells[figure][-1].append(f"{compared[name].floor:.3f}")
                cells["exactly one press"][row].append(f"{single_press_share(samples):.3f}")
                progress.update(S * count)
            cells["exactly one press"][-1].append(f"{single_press_share(real):.3f}")
    rows = tuple(
        (f"{figure}, {name}", *values) for figure in figures for name, values in zip(row_names, cells[figure], strict=True)
    )
    drawn = ", ".join(f"{count} at S = {S}" for S, count in zip(args.steps, counts, strict=True))
    note = (
        f"sequences drawn: {drawn}; {len(real)} held-out ones, seed {args.seed}\n"
        "classifier accuracy: 0.5 is perfect; Frechet distance: 0 is perfect, and fewer sequences raise it: a column is to be\n"
        "compared with its own `real beside real`, which is the same figure between as many held-out sequences"
    )
    return Table("Quality by number of steps S and eta", ("", *(f"S = {S}" for S in args.steps)), rows, note)


def parse_args() -> argparse.Namespace:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], formatter_class=formatter)
    add = parser.add_argument
    add("--model", required=True, default=argparse.SUPPRESS, help="pipeline folder that a training run leaves")
    add("--data_dir", help="held-out actions; without it those of the generator, the documented validation data")
    add("--tables", nargs="+", choices=("speed", "quality"), default=["speed", "quality"], help="what to measure")
    add("--compile", action="store_true", help="time the pipeline with torch.compile of its denoiser too")
    add("--onnx", action="store_true", help="export the pipeline, and time the graphs too; needs the extra onnx")
    add("--plan_steps", type=int, default=10, help="DDIM steps of a timed plan")
    add("--threads", type=int, default=1, help="threads of the timed plans; the drawing takes what torch takes")
    add("--rounds", type=int, default=5, help="times that each contender is timed, in turn; at most 3 for the throughput")
    add("--repeats", type=int, default=20, help=f"plans in a round at batch 1; one of {SLOW_STEPS} steps or more is made once")
    add("--throughput_batch", type=int, default=256, help="sequences at once for the throughput")
    add("--num_samples", type=int, default=500, help="sequences drawn at each number of steps and eta")
    add("--slow_samples", type=int, default=MIN_SEQUENCES, help=f"the same from {SLOW_STEPS} steps on")
    add("--steps", type=int, nargs="+", default=[5, 10, 20, 50, 100, 1000], help="S, numbers of steps to draw in")
    add("--etas", type=float, nargs="+", default=[0.0, 0.2, 0.5, 1.0], help="shares of fresh noise in each step")
    add("--batch_size", type=int, default=256, help="sequences drawn at once")
    add("--seed", type=int, default=0, help="seed of the noise and of the figures")
    add("--quick", action="store_true", help="a smoke test: few plans, steps and samples, whatever the other flags say")
    args = parser.parse_args()
    if args.quick:
        vars(args).update(QUICK)
    counts = (args.rounds, args.repeats, args.threads, args.throughput_batch, args.batch_size, args.plan_steps, *args.steps)
    if min(counts) < 1 or min(args.num_samples, args.slow_samples) < MIN_SEQUENCES or args.seed < 0:
        parser.error(f"give at least {MIN_SEQUENCES} samples, at least 1 of everything else, and no negative seed")
    if not all(0 <= eta <= 1 for eta in args.etas):
        parser.error("give --etas from 0 to 1")
    return args


def main() -> None:
    args = parse_args()
    try:
        pipeline = load_pipeline(args.model, "cpu")
        most = pipeline.scheduler.config.num_train_timesteps
        if max(args.plan_steps, *args.steps) > most:
            raise UserError(f"--plan_steps and --steps go up to the model's {most} training timesteps")
        if "quality" in args.tables:
            check_eval_packages()
            real = held_out_actions(args, pipeline.denoiser.config.seq_len)
        with tempfile.TemporaryDirectory() as args.exported:
            if args.onnx:
                from action_ddim.serving.onnx_export import export_onnx

                export_onnx(pipeline, args.exported, args.plan_steps)
            if "speed" in args.tables:
                print(measure_speed(args, pipeline).to_text(), flush=True)
            if args.onnx:
                print("\n" + measure_start(args).to_text(), flush=True)
        if "quality" in args.tables:
            print("\n" + measure_quality(args, pipeline, real).to_text())
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
