"""The denoiser: a transformer over short runs of time steps, conditioned on the diffusion timestep by adaLN-Zero.

In reading order: patches in, block, patches out, model. The blocks are those of DiT (arXiv 2212.09748, section 3.2). A
token stands for `patch_size` time steps, so that attention costs little, and patches overlap: a token reads and writes
its neighbours' steps too, so that strokes stay smooth across the borders.

Shapes: B batch, L time steps, C channels, P patch size, N = ceil(L / P) tokens, D model width, H heads, M width
of hidden layers.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin  # from_pretrained looks for the name ModelMixin in this module
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps, get_1d_sincos_pos_embed_from_grid
from diffusers.utils import BaseOutput
from torch import nn

NUM_AXES = 2  # x and y, of which the rest head says whether they move
MAX_EXPLICIT_TOKENS = 96  # up to which attention written out is faster to train on a CPU
OVERLAP = 3  # patches that a token reads and writes: its own and one on either side


@dataclass
class ActionTransformer1DOutput(BaseOutput):
    """What the network predicts, `(B, L, C)`: clean actions, noise or v, as it was trained.

    With a rest head also the logits, `(B, L - 1, 2)`, of whether x, and whether y, moves from each step to the next.
    """

    sample: torch.Tensor
    move_logits: torch.Tensor | None = None


class OverlappingLinear(nn.Conv1d):
    """A linear map of each token and its two neighbours; at the ends, where zeros would bend strokes, it is its own neighbour.

    A convolution over tokens, computed as one matrix product, `(B, N, C)` to `(B, N, out)`.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, OVERLAP)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return F.linear(windows, self.weight.flatten(1), self.bias)


def with_neighbours(x: torch.Tensor) -> torch.Tensor:
    """Return each token `(B, N, C)` with its neighbours, `(B, N, C * OVERLAP)`, as `OverlappingLinear` reads them."""
    padded = torch.cat([x[:, :1], x, x[:, -1:]], dim=1)
    return padded.unfold(1, OVERLAP, 1).flatten(2)


class PatchEmbedding(nn.Module):
    """Fold P steps into a token, and see the neighbouring patches through a small MLP."""

    def __init__(self, patch_channels: int, d_model: int, mlp_ratio: int):
        super().__init__()
        self.read = OverlappingLinear(patch_channels, mlp_ratio * d_model)
        self.proj = nn.Linear(mlp_ratio * d_model, d_model)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        hidden = self.read(with_neighbours(patches))  # (B, N, M)
        return self.proj(F.gelu(hidden))  # (B, N, D)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return the scaled dot product attention of queries, keys and values, each `(B, H, N, D/H)`."""
    if q.requires_grad and q.device.type == "cpu" and q.shape[2] <= MAX_EXPLICIT_TOKENS:
        # The gradient of torch's own takes twice as long there, on several threads three times.
        return (q / q.shape[3] ** 0.5 @ k.mT).softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


class AdaLNZeroBlock(nn.Module):
    """Attention, then an MLP, each between a modulated norm and a gate; the gates start at 0, the block as identity.

    Queries and keys are normalized (arXiv 2302.05442, section 2), which keeps attention calm at high learning rates.
    """

    def __init__(self, d_model: int, nhead: int, mlp_ratio: int, dropout: float):
        super().__init__()
        self.nhead = nhead
        self.modulation = nn.Linear(d_model, 6 * d_model)
        self.norm1 = nn.LayerNorm(d_model, eps=1e-6, elementwise_affine=False)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.qk_norm = nn.LayerNorm(d_model // nhead, eps=1e-6, bias=False)
        self.proj = nn.Linear(d_model, d_model)
        self.norm2 = nn.LayerNorm(d_model, eps=1e-6, elementwise_affine=False)
        self.mlp = nn.Sequential(
            nn.Linear(d_model, mlp_ratio * d_model),
            nn.GELU(),
            nn.Linear(mlp_ratio * d_model, d_model),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        modulation = self.modulation(condition).unsqueeze(1)  # (B, 1, 6D)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=-1)
        h = self.attend(torch.addcmul(shift1, self.norm1(x), 1 + scale1))
        x = torch.addcmul(x, gate1, self.dropout(h))
        h = self.mlp(torch.addcmul(shift2, self.norm2(x), 1 + scale2))
        return torch.addcmul(x, gate2, self.dropout(h))

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.nhead, -1)).unbind(2)  # each (B, N, H, D/H)
        q, k = self.qk_norm(q), self.qk_norm(k)
        x = attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))  # (B, H, N, D/H)
        return self.proj(x.transpose(1, 2).flatten(2))  # (B, N, D)


class PatchOutput(nn.Module):
    """Unfold tokens to steps, with a gated share of the network's input, which is nearly clean where noise is low.

    With a rest head, the same tokens say of each step whether it moves: a continuous output never repeats itself exactly.
    """

    def __init__(self, patch_size: int, in_channels: int, d_model: int, rest_head: bool):
        super().__init__()
        self.modulation = nn.Linear(d_model, 2 * d_model)
        self.norm = nn.LayerNorm(d_model, eps=1e-6, elementwise_affine=False)
        self.write = OverlappingLinear(d_model, patch_size * in_channels)
        self.input_gate = nn.Linear(d_model, in_channels)
        self.write_moves = OverlappingLinear(d_model, patch_size * NUM_AXES) if rest_head else None

    def forward(
        self, x: torch.Tensor, condition: torch.Tensor, sample: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        B, L, C = sample.shape
        shift, scale = self.modulation(condition).unsqueeze(1).chunk(2, dim=-1)
        windows = with_neighbours(torch.addcmul(shift, self.norm(x), 1 + scale))
        steps = self.write(windows).reshape(B, -1, C)[:, :L]  # (B, L, C), without the padding
        output = torch.addcmul(steps, self.input_gate(condition).unsqueeze(1), sample)
        if self.write_moves is None:
            return output, None
        moves = self.write_moves(windows).reshape(B, -1, NUM_AXES)  # one a step, of the motion that leads to it
        return output, moves[:, 1:L]  # (B, L - 1, 2)


class ActionTransformer1DModel(ModelMixin, ConfigMixin):
    """A denoiser of actions in model space.

    Args:
        d_model: D, even, divisible by `nhead`.
        num_layers: Blocks.
        nhead: H, attention heads.
        patch_size: P, time steps a token; the cost of a pass falls about in proportion.
        seq_len: L; a length that P does not divide is padded inside.
        in_channels: C.
        dropout: Share of each branch's output dropped while training.
        rest_head: Whether it also says which steps move.
        input_timesteps: How many timesteps, from 0 up, hold less noise than the network errs by; there a network that predicts
            clean actions answers with its input. 0 for none.
        mlp_ratio: M / D, of the hidden layers.

    Raises:
        ValueError: `d_model` is odd, or not divisible by `nhead`.
    """

    @register_to_config
    def __init__(
        self,
        d_model: int = 128,
        num_layers: int = 4,
        nhead: int = 4,
        patch_size: int = 7,
        seq_len: int = 250,
        in_channels: int = 3,
        dropout: float = 0.0,
        rest_head: bool = False,
        input_timesteps: int = 0,
        mlp_ratio: int = 4,
    ):
        super().__init__()
        if d_model % nhead or d_model % 2:
            raise ValueError(f"d_model is {d_model}; it must be even and divisible by nhead, {nhead}")
        num_tokens = -(-seq_len // patch_size)
        self.patch_in = PatchEmbedding(patch_size * in_channels, d_model, mlp_ratio)
        # A table, not a parameter: it follows from the config, and is made again on loading.
        positions = get_1d_sincos_pos_embed_from_grid(d_model, torch.arange(num_tokens).double(), output_type="pt")
        self.register_buffer("positions", positions.float(), persistent=False)
        self.time_proj = Timesteps(d_model, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(d_model, d_model)
        self.blocks = nn.ModuleList(AdaLNZeroBlock(d_model, nhead, mlp_ratio, dropout) for _ in range(num_layers))
        self.patch_out = PatchOutput(patch_size, in_channels, d_model, rest_head)
        self._init_weights()

    def _init_weights(self) -> None:
        for name, parameter in self.named_parameters():
            if "norm" in name:
                nn.init.ones_(parameter)
            elif parameter.ndim == 1:
                nn.init.zeros_(parameter)  # biases
            elif any(layer in name for layer in ("modulation", "write", "input_gate")):
                nn.init.zeros_(parameter)  # blocks start as the identity, the network's output at 0
            elif "time_embedding" in name:
                nn.init.normal_(parameter, std=0.02)  # as in DiT
            else:
                nn.init.xavier_uniform_(parameter.flatten(1))  # a convolution is the linear map of a patch

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        return_dict: bool = True,
    ) -> ActionTransformer1DOutput | tuple[torch.Tensor, ...]:
        """Predict from noisy actions.

        Args:
            sample: Noisy, `(B, L, C)` in model space.
            timestep: Diffusion timestep, one number or `(B,)`.
            return_dict: Whether to return an `ActionTransformer1DOutput` or a tuple of what it holds, the sample first.

        Raises:
            ValueError: the sample has another length or other channels than the config says.
        """
        B = sample.shape[0]  # not len(), which an export would take for a fixed number
        expected = (self.config.seq_len, self.config.in_channels)
        if tuple(sample.shape[1:]) != expected:
            raise ValueError(f"sample has the shape {tuple(sample.shape)}, not (B, {expected[0]}, {expected[1]})")
        timestep = torch.as_tensor(timestep, device=sample.device).expand(B)
        condition = F.silu(self.time_embedding(self.time_proj(timestep).to(sample.dtype)))  # (B, D)
        x = self.patch_in(self._fold(sample)) + self.positions.to(sample.dtype)  # (B, N, D)
        for block in self.blocks:
            x = block(x, condition)  # (B, N, D)
        output, move_logits = self.patch_out(x, condition, sample)
        if self.config.input_timesteps:
            level = (timestep.float() + 1) / self.config.input_timesteps
            # 1/2 where both are alike, as the ratio of variances would have it, but steeper: what is left of the input's
            # noise at the last step of a path makes strokes rough.
            share = 1 / (1 + level**8)
            output = torch.lerp(output, sample, share.to(sample.dtype).view(-1, 1, 1))
        output = ActionTransformer1DOutput(output, move_logits)
        return output if return_dict else output.to_tuple()

    def _fold(self, steps: torch.Tensor) -> torch.Tensor:
        """Fold steps `(B, L, C)` into patches `(B, N, P*C)`, the last one padded with zeros."""
        B, L, C = steps.shape
        patch_size = self.config.patch_size
        padding = steps.new_zeros(B, -L % patch_size, C)  # F.pad beside a convolution's padding breaks torch.compile
        return torch.cat([steps, padding], dim=1).reshape(B, -1, patch_size * C)
