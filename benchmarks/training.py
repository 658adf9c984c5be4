"""Time a whole training step, from fetching the batch to the optimizer, of this trainer and of two others, in one run.

    python benchmarks/training.py            # the table, at the documented full-training flags
    python benchmarks/training.py --help

ours   This trainer: `action_ddim.training.run.build` and `action_ddim.training.training_step`, so noise, loss, clipping,
       learning rate and moving average too.
plain  What one writes without a library: `nn.TransformerEncoder` over one token a time step, epsilon-prediction, a
       data set of single sequences behind a plain `DataLoader`, plain AdamW; the same width, layers and heads. Once
       with the layer's default dropout, 0.1, and once (plain_no_dropout) without, as ours is by default: on a CPU
       attention with dropout takes a far slower path in torch, and the difference should show.
unet   diffusers' `UNet1DModel` of about our parameter count, in the loop of diffusers' train_unconditional example.

All read the same synthetic data in batches of one size; the products in a step, counted by torch's own counter, are set beside
what the machine's matrix product reaches in the same process. Each runs in processes of its own, so that its peak memory is its
own, and they take turns, so that what else the machine does falls on all.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from action_ddim.actions import DEFAULT_SEQ_LEN, NUM_CHANNELS, to_model_space
from action_ddim.errors import UserError
from action_ddim.training.config import TrainConfig
from augmentation.gestures import GestureConfig, write_gestures

# diffusers, accelerate and the trainer are imported by those that use them: they are no part of the plain loop's memory.

NUM_SEQUENCES, NUM_TIMESTEPS, NUM_EPOCHS, LEARNING_RATE = 5000, 1000, 50, 2e-4
UNET_LENGTH = 256  # 250 steps, padded: the U-Net halves the length three times
SGEMM_SIZE = 1024
STEP_MARK = "step"  # what a worker prints after every step


class Contender(NamedTuple):
    """What is timed: `epoch(n)` gives the batches of epoch n, from 1, and `step` learns from one."""

    label: str
    num_parameters: int
    epoch: Callable[[int], Iterable[torch.Tensor]]
    step: Callable[[torch.Tensor], Any]


def train_config(args: argparse.Namespace) -> TrainConfig:
    shared = ("batch_size", "d_model", "num_layers", "nhead", "patch_size", "device")
    folders = {"data_dir": args.data_dir, "val_data_dir": args.data_dir, "save_dir": f"{args.data_dir}/run"}
    flags = {name: getattr(args, name) for name in shared}
    return TrainConfig(**folders, **flags, num_epochs=NUM_EPOCHS, lr=LEARNING_RATE, report_to=("none",))


def prepare_ours(args: argparse.Namespace) -> Contender:
    from action_ddim.training.loader import open_data
    from action_ddim.training.loop import training_step
    from action_ddim.training.run import build, make_accelerator
    from action_ddim.training.run_folder import RunFolder

    config = train_config(args)
    run = build(config, make_accelerator(config), RunFolder(config.save_dir), *open_data(config))
    run.denoiser.train()

    def epoch(number: int) -> Iterable[torch.Tensor]:
        run.loader.set_epoch(number)
        return run.loader

    # With a batch an update, as here, the count of updates is that of batches.
    label, num_parameters = "ours: action_ddim", count_parameters(run.pipeline.denoiser)
    return Contender(label, num_parameters, epoch, lambda actions: training_step(run, actions, batch=run.update))


class PlainDataset(Dataset):
    """The sequences of one file, one at a time."""

    def __init__(self, path: Path):
        self.actions = np.load(path, mmap_mode="r").reshape(-1, DEFAULT_SEQ_LEN, NUM_CHANNELS)

    def __len__(self) -> int:
        return len(self.actions)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(np.array(self.actions[index]))


def plain_loader(args: argparse.Namespace) -> DataLoader:
    files = [PlainDataset(path) for path in sorted(Path(args.data_dir).glob("*_actions.npy"))]
    return DataLoader(ConcatDataset[torch.Tensor](files), batch_size=args.batch_size, shuffle=True)


class PlainTransformer(nn.Module):
    """One token a time step; the embedding of the diffusion timestep is added to all of them."""

    frequencies: torch.Tensor

    def __init__(self, d_model: int, num_layers: int, nhead: int, dropout: float):
        super().__init__()
        self.embed = nn.Linear(NUM_CHANNELS, d_model)
        self.position = nn.Parameter(0.02 * torch.randn(DEFAULT_SEQ_LEN, d_model))
        self.register_buffer("frequencies", 10000 ** -torch.linspace(0, 1, d_model // 2))
        self.time = nn.Sequential(nn.Linear(d_model, d_model), nn.SiLU(), nn.Linear(d_model, d_model))
        layer = nn.TransformerEncoderLayer(d_model, nhead, 4 * d_model, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers)
        self.out = nn.Linear(d_model, NUM_CHANNELS)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        angle = timestep[:, None] * self.frequencies  # (B, D/2)
        time_embedding = self.time(torch.cat([angle.sin(), angle.cos()], dim=-1))  # (B, D)
        return self.out(self.encoder(self.embed(sample) + self.position + time_embedding[:, None]))  # (B, L, 3)


def prepare_plain(args: argparse.Namespace, dropout: float) -> Contender:
    device, loader = "cuda" if uses_cuda(args) else "cpu", plain_loader(args)
    model = PlainTransformer(args.d_model, args.num_layers, args.nhead, dropout).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, NUM_TIMESTEPS, device=device), dim=0)

    def step(actions: torch.Tensor) -> None:
        sample = to_model_space(actions)
        noise = torch.randn_like(sample)
        timestep = torch.randint(NUM_TIMESTEPS, (len(sample),), device=device)
        alpha = alpha_bar[timestep, None, None]
        loss = F.mse_loss(model(alpha.sqrt() * sample + (1 - alpha).sqrt() * noise, timestep), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    # Moving a batch to the device belongs to the fetch, as in Accelerate's loaders.
    label, num_parameters = f"plain: nn.TransformerEncoder, dropout {dropout:g}", count_parameters(model)
    return Contender(label, num_parameters, lambda number: (batch.to(device) for batch in loader), step)


def make_unet(widths: tuple[int, int, int]) -> Any:
    from diffusers import UNet1DModel

    # The embedding of the timestep, as wide as the first block, goes in as channels beside the data.
    channels = {"in_channels": NUM_CHANNELS, "out_channels": NUM_CHANNELS, "extra_in_channels": widths[0]}
    return UNet1DModel(UNET_LENGTH, **channels, time_embedding_type="positional", block_out_channels=widths)


def find_unet_widths(num_parameters: int) -> tuple[int, int, int]:
    """Return the widths of the three blocks, in proportions near the default's 1 : 1 : 2, that come nearest to the count."""
    # Attention has a head per 32 channels of the second block, and of the third.
    tails = [(second, third) for second in range(32, 257, 32) for third in (second, 2 * second)]
    candidates = [(first, *tail) for tail in tails for first in range(tail[0] // 4, tail[0] + 1, tail[0] // 8)]
    with torch.device("meta"):  # counts without drawing any weights
        return min(candidates, key=lambda widths: abs(count_parameters(make_unet(widths)) - num_parameters))


def prepare_unet(args: argparse.Namespace) -> Contender:
    from accelerate import Accelerator
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    from action_ddim.denoiser import ActionTransformer1DModel

    ours = ActionTransformer1DModel(args.d_model, args.num_layers, args.nhead, args.patch_size, DEFAULT_SEQ_LEN)
    widths = find_unet_widths(count_parameters(ours))
    accelerator, loader, model = Accelerator(cpu=not uses_cuda(args)), plain_loader(args), make_unet(widths)
    ema = EMAModel(model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.95, 0.999), weight_decay=1e-6)
    lr_scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=len(loader) * NUM_EPOCHS)
    model, optimizer, loader, lr_scheduler = accelerator.prepare(model, optimizer, loader, lr_scheduler)
    ema.to(accelerator.device)
    noise_scheduler = DDPMScheduler(NUM_TIMESTEPS, beta_schedule="linear")

    def step(actions: torch.Tensor) -> None:
        sample = F.pad(to_model_space(actions).transpose(1, 2), (0, UNET_LENGTH - DEFAULT_SEQ_LEN))  # (B, 3, 256)
        noise = torch.randn_like(sample)
        timestep = torch.randint(NUM_TIMESTEPS, (len(sample),), device=sample.device)
        with accelerator.accumulate(model):
            output = model(noise_scheduler.add_noise(sample, noise, timestep), timestep).sample
            accelerator.backward(F.mse_loss(output, noise))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            lr_scheduler.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            ema.step(model.parameters())

    label = "unet: UNet1DModel " + "/".join(map(str, widths))
    return Contender(label, count_parameters(model), lambda number: loader, step)


CONTENDERS: dict[str, Callable[[argparse.Namespace], Contender]] = {
    "ours": prepare_ours,
    "plain": partial(prepare_plain, dropout=0.1),
    "plain_no_dropout": partial(prepare_plain, dropout=0.0),
    "unet": prepare_unet,
}


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def uses_cuda(args: argparse.Namespace) -> bool:
    return args.device != "cpu" and torch.cuda.is_available()


def sgemm_rate(device: str, synchronize: Callable[[], None]) -> float:
    """Return the FLOP a second of a product of square float32 matrices of `SGEMM_SIZE`."""
    left, right = torch.randn(2, SGEMM_SIZE, SGEMM_SIZE, device=device)
    seconds = []
    for _ in range(30):
        synchronize()
        started = time.perf_counter()
        left @ right
        synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * SGEMM_SIZE**3 / median(seconds)


def num_steps(args: argparse.Namespace, name: str) -> tuple[int, int]:
    """Return how many steps of a contender are run before the timing, and how many are timed."""
    return (min(args.warmup, args.slow_steps), args.slow_steps) if name.startswith("plain") else (args.warmup, args.steps)


def run_worker(args: argparse.Namespace) -> None:
    """Time one contender; print a line per step, then the measurements as JSON."""
    torch.manual_seed(0)
    synchronize: Callable[[], None] = torch.cuda.synchronize if uses_cuda(args) else lambda: None
    contender = CONTENDERS[args.worker](args)

    def batches() -> Iterator[torch.Tensor]:
        for number in range(1, sys.maxsize):
            yield from contender.epoch(number)

    warmup, timed = num_steps(args, args.worker)
    steps: list[float] = []
    fetches: list[float] = []
    iterator = batches()
    while len(steps) < warmup + timed:
        synchronize()
        started = time.perf_counter()
        actions = next(iterator)
        fetched = time.perf_counter()
        contender.step(actions)
        synchronize()
        ended = time.perf_counter()
        if len(actions) == args.batch_size:  # the last batch of an epoch is smaller
            steps.append(ended - started)
            fetches.append(fetched - started)
            print(STEP_MARK, flush=True)
    if uses_cuda(args):
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:  # ru_maxrss is in bytes on macOS, in KiB elsewhere
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    share, seconds = sum(fetches[warmup:]) / sum(steps[warmup:]), median(steps[warmup:])
    with FlopCounterMode(display=False) as counter:
        contender.step(next(batch for batch in iterator if len(batch) == args.batch_size))
    rate = sgemm_rate("cuda" if uses_cuda(args) else "cpu", synchronize)
    sgemm = {"flop": counter.get_total_flops(), "rate": rate, "sgemm": 100 * counter.get_total_flops() / seconds / rate}
    result = {"ms": 1000 * seconds, "peak": peak, "data": 100 * share, **sgemm}
    print(json.dumps({"label": contender.label, "parameters": contender.num_parameters, **result}), flush=True)


def call_worker(name: str, folder: str, progress: tqdm) -> dict[str, Any]:
    """Run this script as the worker of one contender and return its measurements."""
    command, line = [sys.executable, __file__, *sys.argv[1:], "--worker", name, "--data_dir", folder], ""
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            for line in process.stdout or ():
                progress.update(line.strip() == STEP_MARK)
        errors.seek(0)
        if process.returncode:
            progress.close()
            raise SystemExit(f"{errors.read()}\n{name} ended with exit code {process.returncode}")
    return json.loads(line)


def format_table(args: argparse.Namespace, results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the table of the medians over rounds, and a footer that says what was measured."""
    row = "{:<42}" + "{:>12}" * 9
    named = ("parameters", "ms/step", "steps/s", "sequences/s", "x ours", "peak MB", "data %", "GFLOP", "% of sgemm")
    lines = [row.format("", *named)]
    keys = ("ms", "peak", "data", "flop", "sgemm")
    middle = {name: {key: median(r[key] for r in rounds) for key in keys} for name, rounds in results.items()}
    for name, (first, *_) in results.items():
        ms, peak, data, flop, sgemm = middle[name].values()
        ratio = f"{ms / middle['ours']['ms']:.2f}" if "ours" in middle else "-"
        speeds = (f"{ms:.1f}", f"{1000 / ms:.2f}", f"{1000 / ms * args.batch_size:.0f}")
        rest = (ratio, f"{peak:.0f}", f"{data:.2f}", f"{flop / 1e9:.2f}", f"{sgemm:.0f}")
        lines.append(row.format(first["label"], f"{first['parameters']:,}", *speeds, *rest))
    device = torch.cuda.get_device_name() if uses_cuda(args) else f"CPU, {torch.get_num_threads()} threads"
    memory = "allocated on the GPU" if uses_cuda(args) else "resident, including the interpreter and torch"
    gflops = median(r["rate"] for measured in results.values() for r in measured) / 1e9
    rounds = (f"{name} {' '.join(format(r['ms'], '.1f') for r in measured)}" for name, measured in results.items())
    lines += [
        f"batch {args.batch_size}, d_model {args.d_model}, {args.num_layers} layers, {args.nhead} heads, ours"
        f" {args.patch_size} steps a token; {device}, torch {torch.__version__}",
        f"x ours: how many times slower than ours; peak MB: {memory}; data %: share of the step spent in the fetch",
        "GFLOP: of the products in a step, forward and backward; % of sgemm: their rate, of that of a product of"
        f" {SGEMM_SIZE} x {SGEMM_SIZE} matrices, {gflops:.0f} GFLOP/s; torch's counter leaves out its fused attention on a CPU",
        f"ms/step of each round: {'; '.join(rounds)}",
    ]
    return "\n".join(lines)


def parse_args() -> argparse.Namespace:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], formatter_class=formatter)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=[*CONTENDERS], help="who takes part")
    flags: list[tuple[str, int, str]] = [
        ("batch_size", 64, f"sequences a batch, of the {NUM_SEQUENCES} there are"),
        ("d_model", 64, "width of the transformers"),
        ("num_layers", 3, "layers of the transformers"),
        ("nhead", 4, "attention heads of the transformers"),
        ("patch_size", TrainConfig.patch_size, "time steps a token of ours; a token of the plain transformer is one"),
        ("rounds", 3, "times that each contender is run, in turn"),
        ("steps", 30, "timed steps of a contender in a round"),
        ("slow_steps", 8, "the same for the plain loops, which take up to seconds a step on a CPU"),
        ("warmup", 5, "steps before the timed ones, for the plain loops no more than --slow_steps"),
    ]
    for name, default, meaning in flags:
        parser.add_argument(f"--{name}", type=int, default=default, help=meaning)
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto takes a CUDA GPU where there is one")
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--data_dir", default=".", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if min(args.rounds, args.steps, args.slow_steps, args.warmup + 1) < 1 or args.batch_size > NUM_SEQUENCES:
        parser.error(f"give at least 1 round and step, no negative warm-up, a batch of at most {NUM_SEQUENCES}")
    try:
        train_config(args)
    except UserError as error:
        parser.error(str(error))
    return args


def main() -> None:
    args = parse_args()
    if args.worker:
        return run_worker(args)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS if name in args.contenders}
    with tempfile.TemporaryDirectory() as folder:
        write_gestures(GestureConfig(num_sequences=NUM_SEQUENCES), folder)
        with tqdm(total=args.rounds * sum(sum(num_steps(args, name)) for name in results), unit="step") as progress:
            for number in range(1, args.rounds + 1):
                for name, measured in results.items():
                    progress.set_description(f"round {number}/{args.rounds}, {name}")
                    measured.append(call_worker(name, folder, progress))
    print(format_table(args, results))


if __name__ == "__main__":
    main()
