"""`TrainConfig`: every setting of a training run, documented and validated."""

import dataclasses
import math
import re
from dataclasses import dataclass, field

from action_ddim.actions import MIN_SEQ_LEN
from action_ddim.errors import UserError
from action_ddim.pretrained import DEVICES
from action_ddim.training.early_stopping import DRAWN_METRICS, METRICS
from augmentation.transforms import TRANSFORMS

# `--lr` is given for this width, as in muP (arXiv 2203.03466): a model of width d trains at lr * 1024 / d, so that one
# value serves every --d_model. The ceiling is where the scaling stops; a larger --lr is taken as it is.
LR_BASE_WIDTH = 1024
SCALED_LR_CEILING = 6.4e-3
FORBIDDEN_IN_PROJECT, MAX_PROJECT = re.compile(r"[/\\#?%:]"), 128  # as wandb has it
NO_TRANSFORMS = ("none",)  # of `--augment`


def _flag(
    help: str,
    *,
    default=dataclasses.MISSING,
    group: str,
    choices: tuple[str, ...] | None = None,
    above=None,
    at_least=None,
    at_most=None,
    may_change=False,
):
    """Declare a field with its help, its choices and its bounds: greater than `above`, or not less than `at_least`; `at_most`.

    A run may be resumed with another value where `may_change`: because that does not affect what is learned, or because it
    is compared otherwise, as data is by a digest of its files.
    """
    metadata = {"help": help, "group": group, "choices": choices, "above": above, "at_least": at_least}
    return field(default=default, metadata={**metadata, "at_most": at_most, "may_change": may_change})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The settings of a run; each field is the flag of the same name, and its metadata says what it means.

    Raises:
        UserError: a value is out of its range, in one line that names the flag.
    """

    data_dir: str | None = _flag(
        "folder of the training data, *_actions.npy (required, or --dataset_name)", default=None, group="data", may_change=True
    )
    val_data_dir: str | None = _flag(
        "folder of the validation data, *_actions.npy (required, or --dataset_name, which has it as a split)",
        default=None,
        group="data",
        may_change=True,
    )
    dataset_name: str | None = _flag(
        "data set of the Hugging Face Hub, ORG/NAME, or a folder of its form, instead of --data_dir",
        default=None,
        group="data",
        may_change=True,
    )
    dataset_config_name: str | None = _flag(
        "configuration of --dataset_name, where it has several", default=None, group="data", may_change=True
    )
    seq_len: int | None = _flag(
        "time steps a sequence; by default what the folder's dataset.json says, else 250",
        default=None,
        group="data",
        at_least=MIN_SEQ_LEN,
        may_change=True,
    )

    d_model: int = _flag("width of the transformer; 32 to 512 recommended", default=128, group="model", at_least=1)
    num_layers: int = _flag("transformer blocks; 2 to 12 recommended", default=4, group="model", at_least=1)
    nhead: int = _flag("attention heads; must divide --d_model", default=4, group="model", at_least=1)
    patch_size: int = _flag(
        "time steps a token; fewer are finer, and slower in proportion", default=5, group="model", at_least=1
    )
    mlp_ratio: int = _flag("width of hidden layers, over --d_model", default=3, group="model", at_least=1)
    dropout: float = _flag("share of activations dropped while training, 0 to below 1", default=0.0, group="model", at_least=0)
    init_from: str | None = _flag(
        "pipeline folder, or its Hub id ORG/NAME, whose weights to start from; settings that shape the model come from there",
        default=None,
        group="model",
    )

    prediction_type: str = _flag(
        "what the network predicts: the clean actions, the noise, or v",
        default="sample",
        group="diffusion",
        choices=("sample", "epsilon", "v_prediction"),
    )
    beta_schedule: str = _flag(
        "noise schedule, by its diffusers name",
        default="squaredcos_cap_v2",
        group="diffusion",
        choices=("squaredcos_cap_v2", "linear", "scaled_linear"),
    )
    num_train_timesteps: int = _flag(
        "diffusion timesteps in training", default=1000, group="diffusion", at_least=1, at_most=100_000
    )
    weighting_scheme: str = _flag(
        "how often each timestep is trained on: those around --logit_mean most, or all alike",
        default="logit_normal",
        group="diffusion",
        choices=("logit_normal", "none"),
    )
    logit_mean: float = _flag(
        "of logit_normal: above 0 timesteps of more noise are trained on more often",
        default=0.35,
        group="diffusion",
    )
    snr_gamma: float | None = _flag(
        "gamma of the min-SNR loss weight (5 is usual), in the place of --loss_balance",
        default=None,
        group="diffusion",
        above=0,
    )
    loss_balance: float = _flag(
        "how far the error of clean actions counts alike at all timesteps: 1 is wholly, 0 as large as it is",
        default=0.5,
        group="diffusion",
        at_least=0,
    )
    velocity_weight: float = _flag(
        "weight of the loss on first differences, which keeps strokes smooth; 0 is off",
        default=5.0,
        group="diffusion",
        at_least=0,
    )
    rest_weight: float = _flag(
        "weight of the loss on whether x and y move or rest, which lets rests be exact; 0 trains a network without it",
        default=0.1,
        group="diffusion",
        at_least=0,
    )

    batch_size: int = _flag("sequences a process and batch", default=32, group="training", at_least=1)
    num_epochs: int = _flag(
        "passes through the training data", default=50, group="training", at_least=1, at_most=10**9, may_change=True
    )
    max_train_steps: int | None = _flag(
        "updates after which training ends, instead of --num_epochs",
        default=None,
        group="training",
        at_least=1,
        may_change=True,
    )
    lr: float = _flag(
        f"peak learning rate, 1e-5 to 1e-2, at width {LR_BASE_WIDTH}: a model of another width trains at"
        f" lr * {LR_BASE_WIDTH} / d_model, scaled up to {SCALED_LR_CEILING:g} at most",
        default=1e-4,
        group="training",
        above=0,
    )
    warmup_steps: int = _flag(
        "updates of linear warm-up, at most a tenth of the run; then a cosine to 0", default=100, group="training", at_least=0
    )
    optimizer: str = _flag(
        "muon takes half the updates that adamw takes to the same model; runs from before it was there go on with adamw",
        default="muon",
        group="training",
        choices=("muon", "adamw"),
    )
    weight_decay: float = _flag("decoupled weight decay", default=1e-4, group="training", at_least=0)
    max_grad_norm: float = _flag("gradients are clipped to this norm", default=1.0, group="training", above=0)
    augment: tuple[str, ...] = _flag(
        "transforms of the training actions, one or several, drawn anew in each epoch",
        default=NO_TRANSFORMS,
        group="training",
        choices=(*TRANSFORMS, "none"),
    )
    gradient_accumulation_steps: int = _flag("batches an update", default=1, group="training", at_least=1)
    ema_decay: float = _flag(
        "decay of the moving average of the weights, 0 to below 1", default=0.999, group="training", at_least=0
    )
    mixed_precision: str | None = _flag(
        "by default what `accelerate launch` or its config says, else none",
        default=None,
        group="training",
        choices=("no", "fp16", "bf16"),
        may_change=True,
    )
    max_bad_steps: int = _flag(
        "updates in a row that may be skipped because loss or gradient is not finite, before the run ends",
        default=10,
        group="training",
        at_least=1,
        may_change=True,
    )
    max_train_time: float | None = _flag(
        "minutes after which the run is saved and ends; by default no limit",
        default=None,
        group="training",
        above=0,
        may_change=True,
    )
    seed: int = _flag("seed of weights, data order and noise", default=0, group="training", at_least=0, at_most=2**32 - 1)

    recon_strength: float = _flag(
        "validation: how far up the noise schedule sequences go before they are reconstructed, above 0 to 1",
        default=0.5,
        group="validation",
        above=0,
    )
    recon_steps: int = _flag(
        "validation: DDIM steps over the whole schedule, of which the strength's share is taken",
        default=10,
        group="validation",
        at_least=1,
    )
    eval_sequences: int = _flag(
        "validation: sequences each epoch; the last epoch takes all", default=256, group="validation", at_least=1
    )
    eval_batch_size: int = _flag("validation: sequences a batch", default=256, group="validation", at_least=1, may_change=True)
    early_stopping_patience: int | None = _flag(
        "epochs without an improvement after which the run ends, keeping the best as pipeline-best; by default off",
        default=None,
        group="validation",
        at_least=1,
        may_change=True,
    )
    early_stopping_metric: str = _flag(
        "what improves; val/realism is measured every --plot_epochs",
        default="val/loss",
        group="validation",
        choices=tuple(METRICS),
        may_change=True,
    )
    early_stopping_min_delta: float = _flag(
        "an improvement is more than this", default=0.0, group="validation", at_least=0, may_change=True
    )

    device: str = _flag(
        "auto takes a CUDA GPU where there is one, else the CPU; mps is the GPU of a Mac",
        default="auto",
        group="system",
        choices=DEVICES,
        may_change=True,
    )
    save_dir: str = _flag(
        "the run folder; one that holds an earlier run is moved aside, unless this one goes on from there",
        default="checkpoints",
        group="system",
        may_change=True,
    )
    compile: bool = _flag(
        "compile the training step with torch.compile: a minute at the start, faster steps after it",
        default=False,
        group="system",
    )
    data_memory_gb: float = _flag(
        "data of at most this size (GB, each process) is loaded into memory, on a GPU into its own; more stays on disk",
        default=4.0,
        group="system",
        at_least=0,
        may_change=True,
    )
    checkpointing_epochs: int = _flag(
        "epochs between checkpoints; 0 for one at the end only", default=20, group="system", at_least=0, may_change=True
    )
    checkpointing_steps: int | None = _flag(
        "updates between checkpoints, beside those of the epochs; by default off",
        default=None,
        group="system",
        at_least=1,
        may_change=True,
    )
    checkpoints_total_limit: int | None = _flag(
        "checkpoints to keep, the newest; by default all", default=None, group="system", at_least=1, may_change=True
    )
    resume_from_checkpoint: str | None = _flag(
        "latest, or a checkpoint of --save_dir: go on from there as if the run had never stopped",
        default=None,
        group="system",
        may_change=True,
    )
    plot_epochs: int = _flag(
        "epochs between plots, and between looks at what the model draws (val/realism); both come at the end too; 0 for none",
        default=10,
        group="system",
        at_least=0,
        may_change=True,
    )
    report_to: tuple[str, ...] = _flag(
        "trackers, one or several",
        default=("wandb",),
        group="system",
        choices=("wandb", "tensorboard", "none"),
        may_change=True,
    )
    wandb_project: str = _flag(
        "name of the tracker's project", default="action-diffusion-test", group="system", may_change=True
    )
    push_to_hub: bool = _flag(
        "upload the model to the Hugging Face Hub at the end of the run", default=False, group="system", may_change=True
    )
    hub_model_id: str | None = _flag("its name there: ORG/NAME", default=None, group="system", may_change=True)

    def __post_init__(self):
        object.__setattr__(self, "report_to", tuple(self.report_to))
        object.__setattr__(self, "augment", tuple(self.augment) or NO_TRANSFORMS)
        for item in dataclasses.fields(self):
            _check_field(item, getattr(self, item.name))
        self._check_data()
        if self.d_model % self.nhead:
            raise UserError(
                f"--d_model {self.d_model} is not divisible by --nhead {self.nhead}; choose a --nhead that divides it"
            )
        if self.d_model % 2:
            raise UserError(f"--d_model is {self.d_model}; give an even number, its halves hold sines and cosines")
        for name in ("dropout", "ema_decay"):
            if getattr(self, name) >= 1:
                raise UserError(f"--{name} is {getattr(self, name):g}; give 0 to below 1")
        if self.recon_strength > 1:
            raise UserError(f"--recon_strength is {self.recon_strength:g}; give a fraction above 0, up to 1")
        if self.loss_balance > 1:
            raise UserError(f"--loss_balance is {self.loss_balance:g}; give 0 to 1")
        if self.recon_steps > self.num_train_timesteps:
            raise UserError(
                f"--recon_steps {self.recon_steps} is more than --num_train_timesteps {self.num_train_timesteps}; lower it"
            )
        if self.report_to != ("none",) and "none" in self.report_to:
            raise UserError("--report_to none excludes the other trackers; leave one of them out")
        if self.augment != NO_TRANSFORMS:
            if "none" in self.augment:
                raise UserError("--augment none excludes the transforms; leave one of them out")
            # They are made in this order, whatever the order of the words.
            object.__setattr__(self, "augment", tuple(name for name in TRANSFORMS if name in self.augment))
        if self.early_stopping_patience and self.early_stopping_metric in DRAWN_METRICS and not self.plot_epochs:
            raise UserError(
                f"--early_stopping_metric {self.early_stopping_metric} is measured every"
                " --plot_epochs, which is 0; give 1 or more"
            )
        if FORBIDDEN_IN_PROJECT.search(self.wandb_project) or len(self.wandb_project) > MAX_PROJECT:
            raise UserError(
                f"--wandb_project is {self.wandb_project!r}; give at most {MAX_PROJECT} characters, none of them / \\ # ? % :"
            )
        if self.push_to_hub != (self.hub_model_id is not None):
            raise UserError("--push_to_hub and --hub_model_id go together; give both, or neither")

    def _check_data(self) -> None:
        """Hold the flags that name data against each other."""
        if self.dataset_name is not None and self.data_dir is not None:
            raise UserError("--data_dir and --dataset_name exclude each other; leave one of them out")
        if self.dataset_config_name is not None and self.dataset_name is None:
            raise UserError("--dataset_config_name is one of --dataset_name; give that too, or leave it out")
        missing = [f"--{name}" for name in ("data_dir", "val_data_dir") if getattr(self, name) is None]
        if missing and self.dataset_name is None:
            raise UserError(f"the following arguments are required: {', '.join(missing)}, or --dataset_name in their place")

    @property
    def peak_lr(self) -> float:
        """The learning rate after warm-up, once `--lr` is scaled to this width."""
        scaled = self.lr * LR_BASE_WIDTH / self.d_model
        return scaled if scaled <= self.lr else max(self.lr, min(scaled, SCALED_LR_CEILING))


def _check_field(item: dataclasses.Field, value) -> None:
    """Hold a value against the choices and bounds of its field."""
    flag, choices = f"--{item.name}", item.metadata["choices"]
    if value is None:
        return
    if isinstance(value, str) and not value.strip():
        raise UserError(f"{flag} is blank; give a value")
    if choices:
        for chosen in value if isinstance(value, tuple) else (value,):
            if chosen not in choices:
                raise UserError(f"{flag} is {chosen!r}; choose from {', '.join(choices)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{flag} is {value}; give a finite number")
    if item.metadata["above"] is not None and value <= item.metadata["above"]:
        raise UserError(f"{flag} is {value:g}; give a number above {item.metadata['above']}")
    if item.metadata["at_least"] is not None and value < item.metadata["at_least"]:
        raise UserError(f"{flag} is {value:g}; give at least {item.metadata['at_least']}")
    if item.metadata["at_most"] is not None and value > item.metadata["at_most"]:
        raise UserError(f"{flag} is {value}; give at most {item.metadata['at_most']}")
