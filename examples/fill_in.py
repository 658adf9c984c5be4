"""Fill in what lies between fixed points: a drag that is given by its two ends and its press, in five ways.

Takes the model of `checkpoints/pipeline`, and leaves the actions in filled_actions.npy and a picture of them in filled.png.
"""

from pathlib import Path

import numpy as np
import torch

from action_ddim import ActionDDIMPipeline, build_mask
from action_ddim.actions import PRESS, X, Y
from action_ddim.evaluation.path_plots import plot_filled

MODEL = Path("checkpoints/pipeline")
if not MODEL.exists():
    raise SystemExit(f"{MODEL} is missing; train a model first (README.md, Train), and start this where its checkpoints/ lies")
pipeline = ActionDDIMPipeline.from_pretrained(MODEL)
seq_len = pipeline.denoiser.config.seq_len

# Pressed over the middle third, from the lower left to the upper right of the screen; y grows downwards.
first, last = seq_len // 3, 2 * seq_len // 3
known = np.zeros((seq_len, 3), dtype=np.float32)
known[first, [X, Y]] = 0.2, 0.8
known[last, [X, Y]] = 0.7, 0.3
known[first : last + 1, PRESS] = 1
mask = build_mask(seq_len, waypoints=[first, last], press=True)

filled = pipeline(5, 50, known=known, mask=mask, generator=torch.Generator().manual_seed(0)).actions
np.save("filled_actions.npy", filled)
plot_filled(known, mask, filled).savefig("filled.png")
print(f"{len(filled)} drags from (0.2, 0.8) to (0.7, 0.3) are in filled_actions.npy, and drawn in filled.png")
