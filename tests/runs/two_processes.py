"""What `test_distributed.py` wants to know of a run on any number of processes: started on each, it writes facts as JSON.

    accelerate launch --config_file accelerate_configs/multi_cpu.yaml two_processes.py DATA OUT
    python two_processes.py DATA OUT

DATA holds `train` and `val`, OUT is a folder for what is written. The global batch is the same for any number of processes.
"""

import csv
import json
import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType, gather_object
from safetensors.torch import save_file

from action_ddim.actions import to_model_space
from action_ddim.data.dataset import ActionDataset
from action_ddim.randomness import draw_noise
from action_ddim.training.config import TrainConfig
from action_ddim.training.interruption import Interruption
from action_ddim.training.loader import open_data
from action_ddim.training.loop import batch_loss, train
from action_ddim.training.loss import diffusion_loss, draw_timesteps
from action_ddim.training.run import Run, build, make_accelerator
from action_ddim.training.run_folder import RunFolder
from action_ddim.training.validation import measure_realism, validate

GLOBAL_BATCH = 64
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "AdaLNZeroBlock",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
}


def make_config(data: Path, out: Path, name: str, **changes) -> TrainConfig:
    flags = {
        "batch_size": GLOBAL_BATCH // PartialState().num_processes,
        **{"d_model": 16, "num_layers": 1, "nhead": 2, "patch_size": 4, "num_epochs": 1, "device": "cpu"},
        **{"data_dir": str(data / "train"), "val_data_dir": str(data / "val"), "report_to": ("none",)},
    }
    return TrainConfig(**{**flags, "save_dir": str(out / name), **changes})


def fresh_state() -> None:
    """Forget the last accelerator; the processes stay connected."""
    AcceleratorState._reset_state()
    GradientState._reset_state()


def build_run(config: TrainConfig) -> Run:
    """Build a run whose weights are all away from 0, so that every gradient is, and the same on every process."""
    run = build(config, make_accelerator(config), RunFolder(config.save_dir), *open_data(config))
    generator = torch.Generator().manual_seed(0)
    for parameter in run.denoiser.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    for average, parameter in zip(run.ema.state_dict().values(), run.denoiser.parameters(), strict=True):
        average.copy_(parameter)
    return run


def batches_by_epoch(run: Run, data: Path) -> dict[int, list[list[int]]]:
    """Return which sequences this process sees, batch by batch, in the first two epochs."""
    dataset = ActionDataset(data / "train")
    place = {actions.numpy().tobytes(): index for index, actions in enumerate(dataset.read(range(len(dataset))))}
    epochs = {}
    for epoch in (1, 2):
        run.loader.set_epoch(epoch)
        epochs[epoch] = [[place[actions.numpy().tobytes()] for actions in batch] for batch in run.loader]
    return epochs


def update_once(run: Run, data: Path) -> dict[str, torch.Tensor]:
    """Make one update from given noise and timesteps, of which each process takes its share; return the new weights."""
    generator = torch.Generator().manual_seed(1)
    sample = to_model_space(ActionDataset(data / "train").read(range(GLOBAL_BATCH)))
    noise = draw_noise(tuple(sample.shape), generator)
    timesteps = draw_timesteps(GLOBAL_BATCH, run.config.num_train_timesteps, generator)
    rank, count = run.accelerator.process_index, run.config.batch_size
    share = slice(rank * count, (rank + 1) * count)
    sample, noise, timesteps = (values[share] for values in (sample, noise, timesteps))
    with run.accelerator.accumulate(run.denoiser):
        scheduler, settings = run.pipeline.scheduler, run.loss_settings
        losses = diffusion_loss(run.denoiser, scheduler, sample, noise, timesteps, **settings)
        run.accelerator.backward(losses.mean())
        norm = run.accelerator.clip_grad_norm_(run.denoiser.parameters(), run.config.max_grad_norm)
        gradients = {f"grad.{name}": value.grad.clone() for name, value in run.pipeline.denoiser.named_parameters()}
        run.optimizer.step()
    weights = {name: value.detach().clone() for name, value in run.pipeline.denoiser.named_parameters()}
    return {"norm": norm.reshape(1), **gradients, **weights}


def rates(config: TrainConfig) -> list[tuple[int, float]]:
    """Train, and return (update, learning rate) at the end of each epoch."""
    fresh_state()
    train(config)
    with open(Path(config.save_dir) / "metrics.csv", newline="") as file:
        return [(int(row["update"]), float(row["train/lr"])) for row in csv.DictReader(file)]


def note_writes(out: Path) -> set[str]:
    """Return a set that will hold the name of every file which this process opens to write in the folder."""
    written: set[str] = set()

    def hook(event: str, arguments: tuple) -> None:
        writing = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (writing or event in ("os.mkdir", "os.rename", "os.remove")) and str(arguments[0]).startswith(f"{out}/"):
            written.add(Path(str(arguments[0])).name)

    sys.addaudithook(hook)
    return written


def train_sharded(config: TrainConfig) -> None:
    """Train under FSDP over gloo, which torch can and Accelerate's own check keeps for GPUs."""
    fresh_state()
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    os.environ |= FSDP
    train(config)


def main(data: Path, out: Path) -> None:
    state = PartialState(cpu=True)
    Accelerator.end_training = lambda self: None  # it would disconnect the processes for good
    written = note_writes(out)
    run = build_run(make_config(data, out, "unused", warmup_steps=0, lr=1e-4, eval_batch_size=2))
    facts = {
        "rank": state.process_index,
        "batches": batches_by_epoch(run, data),
        "metrics": {
            **validate(run, torch.arange(len(run.val_data)).numpy(), Interruption()),
            **measure_realism(run, Interruption())[0],
        },
        "loss_of_one_batch": batch_loss(run, ActionDataset(data / "train").read(range(8)), batch=0).item(),
    }
    weights = update_once(run, data)
    facts["rates"] = {
        accumulated: rates(
            make_config(data, out, f"rates_{accumulated}", gradient_accumulation_steps=accumulated, num_epochs=4)
        )
        for accumulated in (1, 3)
    }
    facts["rates_of_one_sequence"] = rates(
        make_config(data, out, "one", data_dir=str(data / "one"), val_data_dir=str(data / "one"))
    )
    facts["written"] = sorted(written)
    ranks = gather_object([facts])
    if state.is_main_process:
        save_file(weights, out / "weights.safetensors")
        (out / "facts.json").write_text(json.dumps(ranks))
    if state.num_processes > 1:
        train_sharded(make_config(data, out, "sharded", num_epochs=4))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
