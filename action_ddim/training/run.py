"""`Run`: what a training run is made of, checked, built and prepared; `loop.py` lets it run."""

import copy
import ctypes
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType, GradientAccumulationPlugin, ProjectConfiguration, parse_flag_from_env, set_seed
from diffusers.optimization import get_cosine_schedule_with_warmup

from action_ddim.data.dataset import ActionDataset
from action_ddim.denoiser import ActionTransformer1DModel
from action_ddim.errors import UserError
from action_ddim.evaluation.inference import ReconstructionSettings
from action_ddim.pipeline import ActionDDIMPipeline
from action_ddim.pretrained import check_agreement, check_compiler, find_device, load_pipeline
from action_ddim.scheduler import ExactDDIMScheduler
from action_ddim.training.config import TrainConfig
from action_ddim.training.early_stopping import DRAWN_METRICS, EarlyStopping
from action_ddim.training.ema import AveragedWeights
from action_ddim.training.loader import load_what_fits, make_loader, warn_of_shared
from action_ddim.training.optimizer import make_optimizer
from action_ddim.training.run_folder import RunFolder
from action_ddim.training.tally import Tally

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
CLEAR_NOISE = 0.0225  # in model space, 0.011 of the screen: about what a network errs by, however little noise there is


@dataclass
class Run:
    """What the stages of a run share."""

    config: TrainConfig
    accelerator: Accelerator
    folder: RunFolder
    val_data: ActionDataset
    loader: Any  # a DataLoader, as prepared
    denoiser: torch.nn.Module  # as prepared and compiled: wrapped where Accelerate and torch.compile wrap
    optimizer: AcceleratedOptimizer
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler
    ema: AveragedWeights
    pipeline: ActionDDIMPipeline  # of the bare denoiser: the trained one, or under FSDP a whole copy of it
    early_stopping: EarlyStopping
    updates_per_epoch: int
    num_updates: int  # of the whole run
    identity: dict = field(default_factory=dict)  # what must be the same to resume
    trivial_loss: float = math.inf  # the val/loss of a model that knows nothing
    tally: Tally = field(default_factory=Tally)
    epoch: int = 0  # epochs that are complete
    batch: int = 0  # batches of the epoch after them that are behind
    update: int = 0  # updates since the start

    @property
    def num_epochs(self) -> int:
        """Epochs of the whole run, the last one perhaps not to its end."""
        return math.ceil(self.num_updates / self.updates_per_epoch)

    @property
    def reconstruction(self) -> ReconstructionSettings:
        config = self.config
        return ReconstructionSettings(config.seed, config.recon_strength, config.recon_steps)

    @property
    def timestep_settings(self) -> dict:
        return {name: getattr(self.config, name) for name in ("weighting_scheme", "logit_mean")}

    @property
    def loss_settings(self) -> dict:
        return {name: getattr(self.config, name) for name in ("snr_gamma", "loss_balance", "velocity_weight", "rest_weight")}

    @property
    def objective(self) -> dict:
        return {**self.timestep_settings, **self.loss_settings}


def check_device(config: TrainConfig) -> None:
    """Raise a UserError where a device, or what only it can do, is asked for and missing."""
    find_device(config.device)
    device = device_type(config)
    if config.device not in ("auto", device):
        raise UserError(
            f"--device is {config.device}, but the configuration of accelerate launch says use_cpu; change one of them"
        )
    precision = config.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION")  # set by accelerate launch
    if precision not in (None, "no", "fp16", "bf16"):
        raise UserError(f"--mixed_precision is {precision}, by accelerate launch or its configuration; give no, bf16 or fp16")
    if precision == "fp16" and device != "cuda":
        raise UserError("--mixed_precision fp16 needs a GPU with CUDA; use bf16 or no")
    if config.compile:
        check_compiler()


def device_type(config: TrainConfig) -> str:
    """Return what the run takes: a GPU where it may, there is one, and the launcher was not told otherwise."""
    try:
        use_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    except ValueError as error:
        raise UserError(f"ACCELERATE_USE_CPU: {error}; give true or false, or unset it") from error
    return "cpu" if use_cpu else find_device(config.device)


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Place the run: Accelerate reads the rest from its launcher."""
    device = device_type(config)
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 where float32 is asked for
    elif device == "cpu":
        keep_freed_memory()
    return Accelerator(
        cpu=device == "cpu",  # else it takes what there is, which is one or the other
        mixed_precision=config.mixed_precision,
        # As a plugin: a plain number would give way to ACCELERATE_GRADIENT_ACCUMULATION_STEPS, and schedules with it.
        gradient_accumulation_plugin=GradientAccumulationPlugin(config.gradient_accumulation_steps),
        log_with=[name for name in config.report_to if name != "none"] or None,
        # tensorboard writes there; its own default, the project's name, is no entry of a run folder.
        project_config=ProjectConfiguration(config.save_dir, logging_dir=f"{config.save_dir}/tensorboard"),
        # A prepared LR scheduler steps once per process and update; ours steps by hand, once per update.
        step_scheduler_with_optimizer=False,
        dataloader_config=DataLoaderConfiguration(non_blocking=True),
    )


def keep_freed_memory() -> None:
    """Have the process keep the memory that tensors free, where its C library is glibc.

    That gives blocks of megabytes back to the system at once: each step gets its memory anew, page by page, some thousand
    page faults and a tenth of its time (see mallopt(3)).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def initial_weights(config: TrainConfig) -> dict[str, torch.Tensor] | None:
    """Load the weights that `--init_from` names, None without it.

    Raises:
        UserError: they cannot be loaded, the settings are not theirs, or the run would write over them.
    """
    if config.init_from is None:
        return None
    path = Path(config.init_from)
    if path.exists() and Path(config.save_dir).resolve() in path.resolve().parents:
        raise UserError(
            f"--init_from {path} lies in --save_dir {config.save_dir}, where this run takes its place; give another --save_dir"
        )
    pipeline = load_pipeline(config.init_from, "cpu", "--init_from")
    check_agreement(vars(config), {**pipeline.denoiser.config, **pipeline.scheduler.config}, config.init_from)
    return pipeline.denoiser.state_dict()


def build(
    config: TrainConfig,
    accelerator: Accelerator,
    folder: RunFolder,
    train_data: ActionDataset,
    val_data: ActionDataset,
    weights: dict[str, torch.Tensor] | None = None,
) -> Run:
    """Place data that was checked; make and prepare model, optimizer, loader, learning-rate schedule and moving average.

    The model starts from the weights, or without them from random ones. MUST be called on every rank.
    """
    load_what_fits(train_data, accelerator.device, config.data_memory_gb)
    load_what_fits(val_data, torch.device("cpu"), config.data_memory_gb)
    if accelerator.is_main_process:
        warn_of_shared(train_data, val_data)
    scheduler = noise_scheduler(config)
    set_seed(config.seed)  # the same weights on every rank
    denoiser = make_denoiser(config, train_data.seq_len, scheduler)
    if weights is not None:
        load_weights(denoiser, weights)
    set_seed(config.seed, device_specific=True)  # dropout differs between ranks
    optimizer = make_optimizer(denoiser, config.optimizer, config.peak_lr, config.weight_decay)
    sharded = accelerator.distributed_type == DistributedType.FSDP
    whole = copy.deepcopy(denoiser).to(accelerator.device) if sharded else denoiser
    pipeline = ActionDDIMPipeline(whole, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    # The loader first, because its length on this rank sets the learning-rate schedule.
    loader = accelerator.prepare(make_loader(train_data, config, accelerator.device))
    updates_per_epoch = math.ceil(len(loader) / config.gradient_accumulation_steps)
    num_updates = config.max_train_steps or config.num_epochs * updates_per_epoch
    lr_scheduler = get_cosine_schedule_with_warmup(optimizer, min(config.warmup_steps, num_updates // 10), num_updates)
    prepared, optimizer, lr_scheduler = accelerator.prepare(denoiser, optimizer, lr_scheduler)
    if config.compile:
        # Around what Accelerate prepared, which checkpoints hold: their names do not change. Shapes are fixed but for the
        # last batch's.
        prepared = torch.compile(prepared, dynamic=False)
    return Run(
        config=config,
        accelerator=accelerator,
        folder=folder,
        val_data=val_data,
        loader=loader,
        denoiser=prepared,
        optimizer=optimizer,
        lr_scheduler=lr_scheduler,
        ema=AveragedWeights(whole, config.ema_decay, sharded=prepared if sharded else None),
        pipeline=pipeline,
        early_stopping=early_stopping(config),
        updates_per_epoch=updates_per_epoch,
        num_updates=num_updates,
    )


def make_denoiser(config: TrainConfig, seq_len: int, scheduler: ExactDDIMScheduler) -> ActionTransformer1DModel:
    return ActionTransformer1DModel(
        d_model=config.d_model,
        num_layers=config.num_layers,
        nhead=config.nhead,
        patch_size=config.patch_size,
        seq_len=seq_len,
        dropout=config.dropout,
        rest_head=config.rest_weight > 0,
        mlp_ratio=config.mlp_ratio,
        input_timesteps=count_clear_timesteps(scheduler) if config.prediction_type == "sample" else 0,
    )


def load_weights(denoiser: ActionTransformer1DModel, weights: dict[str, torch.Tensor]) -> None:
    """Load weights to start from. A rest head that they lack stays as it was made; one that only they have is left out."""
    unfit = denoiser.load_state_dict(weights, strict=False)
    others = [name for name in (*unfit.missing_keys, *unfit.unexpected_keys) if "write_moves" not in name]
    if others:
        raise UserError(f"--init_from is not a model of these settings: {others[0]} does not fit; leave the settings out")


def early_stopping(config: TrainConfig) -> EarlyStopping:
    metric = config.early_stopping_metric
    every = config.plot_epochs if metric in DRAWN_METRICS else 1
    return EarlyStopping(config.early_stopping_patience, metric, config.early_stopping_min_delta, every)


def noise_scheduler(config: TrainConfig) -> ExactDDIMScheduler:
    """Make the scheduler that noises in training and samples ever after; its config is saved with the pipeline."""
    return ExactDDIMScheduler(
        num_train_timesteps=config.num_train_timesteps,
        beta_schedule=config.beta_schedule,
        prediction_type=config.prediction_type,
        timestep_spacing="trailing",  # starts at the last timestep, the one that is all noise
        # The clean actions that a network predicts outright lie in their range as it is, and a path that is not clipped
        # can be inverted.
        clip_sample=config.prediction_type != "sample",
        clip_sample_range=1.0,
    )


def count_clear_timesteps(scheduler: ExactDDIMScheduler) -> int:
    """Count the timesteps at which the clean actions are seen through less noise than `CLEAR_NOISE`."""
    alpha_bar = scheduler.alphas_cumprod
    return int(((1 - alpha_bar) / alpha_bar < CLEAR_NOISE**2).sum())
