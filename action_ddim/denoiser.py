"""The denoiser: a transformer over short runs of time steps, conditioned on the diffusion timestep by adaLN-Zero.

In reading order: block, model. The blocks are those of DiT (arXiv 2212.09748, section 3.2). A token stands for
`patch_size` steps, and patches overlap: each is read from, and written to, by the tokens beside it too, which is what
keeps strokes smooth across their borders.

Shapes: B batch, L time steps, C channels, P patch size, N = ceil(L / P) tokens, D model width, H heads.
"""

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin  # from_pretrained finds the model by the name ModelMixin in this module
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps, get_1d_sincos_pos_embed_from_grid
from diffusers.models.unets.unet_1d import UNet1DOutput
from torch import nn


class AdaLNZeroBlock(nn.Module):
    """Attention, then an MLP, each between a modulated norm and a gate that the timestep sets and that starts at 0."""

    def __init__(self, d_model: int, nhead: int, dropout: float):
        super().__init__()
        self.nhead = nhead
        self.dropout = dropout
        self.modulation = nn.Linear(d_model, 6 * d_model)
        self.norm1 = nn.LayerNorm(d_model, eps=1e-6, elementwise_affine=False)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)
        self.norm2 = nn.LayerNorm(d_model, eps=1e-6, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(approximate="tanh"), nn.Linear(4 * d_model, d_model))

    def attend(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.nhead, -1)).permute(2, 0, 3, 1, 4)  # 3 x (B, H, N, D/H)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))

    def forward(self, x, condition):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).unsqueeze(1).chunk(6, dim=-1)
        h = self.attend(torch.addcmul(shift1, self.norm1(x), 1 + scale1))
        x = torch.addcmul(x, gate1, F.dropout(h, self.dropout, self.training))
        h = self.mlp(torch.addcmul(shift2, self.norm2(x), 1 + scale2))
        return torch.addcmul(x, gate2, F.dropout(h, self.dropout, self.training))


class ActionTransformer1DModel(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, d_model=128, num_layers=4, nhead=4, patch_size=5, seq_len=250, in_channels=3, dropout=0.0, skip=False):
        super().__init__()
        self.num_tokens = -(-seq_len // patch_size)
        patch_channels = patch_size * in_channels
        self.patch_in = nn.Conv1d(patch_channels, d_model, 3, padding=1)
        grid = torch.arange(self.num_tokens, dtype=torch.float64)
        self.register_buffer(
            "positions", get_1d_sincos_pos_embed_from_grid(d_model, grid, output_type="pt").float(), persistent=False
        )
        self.time_proj = Timesteps(d_model, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(d_model, d_model)
        self.blocks = nn.ModuleList(AdaLNZeroBlock(d_model, nhead, dropout) for _ in range(num_layers))
        self.norm_out = nn.LayerNorm(d_model, eps=1e-6, elementwise_affine=False)
        self.modulation_out = nn.Linear(d_model, 2 * d_model + 2 * in_channels)
        self.patch_out = nn.Conv1d(d_model, patch_channels, 3, padding=1)
        self._init_weights()

    def _init_weights(self):
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d)):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.time_embedding.linear_1.weight, std=0.02)
        nn.init.normal_(self.time_embedding.linear_2.weight, std=0.02)
        for module in [*(block.modulation for block in self.blocks), self.modulation_out, self.patch_out]:
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)

    def forward(self, sample, timestep, return_dict=True):
        B, L, C = sample.shape
        N, P = self.num_tokens, self.config.patch_size
        timestep = torch.as_tensor(timestep, device=sample.device).expand(B)
        condition = F.silu(self.time_embedding(self.time_proj(timestep).to(sample.dtype)))  # (B, D)
        x = F.pad(sample, (0, 0, 0, N * P - L)).reshape(B, N, P * C)
        x = self.patch_in(x.transpose(1, 2)).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x, condition)
        m = self.modulation_out(condition).unsqueeze(1)
        shift, scale = m[..., : 2 * x.shape[-1]].chunk(2, -1)
        x = torch.addcmul(shift, self.norm_out(x), 1 + scale)
        x = self.patch_out(x.transpose(1, 2)).transpose(1, 2).reshape(B, N * P, C)[:, :L]
        if self.config.skip:
            x = x + m[..., 2 * self.config.d_model : 2 * self.config.d_model + 3] * sample
        return UNet1DOutput(sample=x) if return_dict else (x,)
