"""Exported pipelines, run by onnxruntime: no torch, and no diffusers."""

import json
import os
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime

from action_ddim.actions import NUM_CHANNELS
from action_ddim.errors import UserError, first_line

SAMPLE_NAME, FILL_NAME = "sample.onnx", "fill.onnx"


class OnnxActionSampler:
    """Draws and fills in actions as the pipeline does that `action-ddim export --format onnx` wrote, from the same latents.

    Args:
        folder: That it wrote.
        num_threads: Of one operation; a single sequence gains nothing by more than one.

    Raises:
        UserError: the folder holds no such graph.
    """

    def __init__(self, folder: str | os.PathLike, num_threads: int = 1):
        self.folder, self.num_threads = Path(folder), num_threads
        self._sampling = self._open(SAMPLE_NAME)
        about = self._sampling.get_modelmeta().custom_metadata_map
        self.seq_len: int = int(about["seq_len"])
        self.num_inference_steps: int = int(about["num_inference_steps"])
        self.rate_hz: float | None = json.loads(about.get("rate_hz", "null"))
        self.metadata: dict[str, str] = about

    def __call__(self, num_sequences: int = 1, seed: int | None = None, latents: np.ndarray | None = None) -> np.ndarray:
        """Return new actions `(N, L, 3)`: x and y in [0, 1], press 0 or 1.

        Args:
            num_sequences: N; that of the latents, where they are given.
            seed: Of numpy's generator, whose noise is not torch's; by default each call draws anew.
            latents: The noise to start from, standard normal `(N, L, 3)`, instead of drawing it.

        Raises:
            ValueError: there are no sequences, or the latents do not fit.
        """
        return self._sampling.run(None, {"latents": self._latents(num_sequences, seed, latents)})[0]

    def fill(
        self,
        known: np.ndarray,
        mask: np.ndarray,
        num_sequences: int = 1,
        seed: int | None = None,
        latents: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return actions `(N, L, 3)` whose known entries come back as they are; the rest is generated to fit them.

        Args:
            known: Actions `(N, L, 3)` or `(L, 3)` in [0, 1]; what the mask leaves out is not looked at.
            mask: Boolean, of the shape of `known` or `(L, 3)`: which entries are known.
            num_sequences: N; that of the latents, or of several known actions, where they are given.
            seed, latents: As in `__call__`.

        Raises:
            ValueError: the latents, the known actions or the mask do not fit.
        """
        known, mask = self._known(known, mask)
        latents = self._latents(len(known) if num_sequences == 1 else num_sequences, seed, latents)
        if len(known) not in (1, len(latents)):
            raise ValueError(f"{len(known)} known actions were given for {len(latents)} sequences")
        known, mask = (np.ascontiguousarray(np.broadcast_to(values, latents.shape)) for values in (known, mask))
        return self._filling.run(None, {"latents": latents, "known": known, "mask": mask})[0]

    @cached_property
    def _filling(self) -> onnxruntime.InferenceSession:
        return self._open(FILL_NAME)

    def _open(self, name: str) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.num_threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would burn their cores
        options.log_severity_level = 3  # errors
        try:
            return onnxruntime.InferenceSession(self.folder / name, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has an error of its own for each way in which a file is none
            raise UserError(
                f"{self.folder / name} cannot be loaded ({first_line(error)});"
                f" action-ddim export --format onnx --model PIPELINE --out {self.folder} writes it"
            ) from error

    def _latents(self, num_sequences: int, seed: int | None, latents: np.ndarray | None) -> np.ndarray:
        if latents is None:
            if num_sequences < 1:
                raise ValueError(f"num_sequences is {num_sequences}; give at least 1")
            shape = (num_sequences, self.seq_len, NUM_CHANNELS)
            return np.random.default_rng(seed).standard_normal(shape, np.float32)
        latents = np.ascontiguousarray(latents, np.float32)
        self._check_shape("latents", latents)
        if not np.isfinite(latents).all():
            raise ValueError("latents hold NaN or infinity")
        return latents

    def _known(self, known: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Check what is known as `inpainting.check_known` does; what is not becomes 0."""
        known, mask = np.asarray(known, np.float32), np.asarray(mask)
        known = known[None] if known.ndim == 2 else known
        self._check_shape("known actions", known)
        if mask.dtype != bool:
            raise ValueError(f"mask holds {mask.dtype}, not booleans")
        if mask.shape not in (known.shape, known.shape[1:], (1, *known.shape[1:])):
            raise ValueError(f"mask has the shape {mask.shape}, which does not fit known, {known.shape}")
        if not mask.any():
            raise ValueError("mask is False throughout; call the sampler itself to draw freely")
        known = np.where(mask, known, 0)
        if not ((known >= 0) & (known <= 1)).all():
            raise ValueError("known actions lie outside [0, 1] where the mask is True")
        return known, mask

    def _check_shape(self, name: str, values: np.ndarray) -> None:
        if values.ndim != 3 or values.shape[1:] != (self.seq_len, NUM_CHANNELS) or not len(values):
            raise ValueError(f"{name} have the shape {values.shape}, not (N, {self.seq_len}, {NUM_CHANNELS})")
