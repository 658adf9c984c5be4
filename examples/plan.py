"""Plan an action by a cost of one's own: go from one corner to another around the middle of the screen, in 10 DDIM steps.

Takes the model of `checkpoints/pipeline`, and leaves the plan in planned_actions.npy and a picture of it in planned.png.
"""

from pathlib import Path

import numpy as np
import torch

from action_ddim import ActionDDIMPipeline, plan, plot_samples
from action_ddim.planning.gestures import swipe

MODEL = Path("checkpoints/pipeline")
if not MODEL.exists():
    raise SystemExit(f"{MODEL} is missing; train a model first (README.md, Train), and start this where its checkpoints/ lies")
pipeline = ActionDDIMPipeline.from_pretrained(MODEL)


def near_the_middle(actions: torch.Tensor) -> torch.Tensor:
    """Say how far actions `(K, L, 3)` in [0, 1] come into a disc in the middle of the screen, in screens squared, `(K,)`."""
    distance = (actions[..., :2] - 0.5).norm(dim=-1)
    return (0.15 - distance).clamp(min=0).square().amax(dim=-1)


# What is asked for in words is known beforehand; the cost says the rest.
seq_len = pipeline.denoiser.config.seq_len
rate = 2 * seq_len  # an action is half a second long
known, mask = swipe((0.2, 0.8), (0.8, 0.2), seq_len, rate, duration_ms=200)
planned = plan(
    pipeline,
    near_the_middle,
    known=known[0],
    mask=mask[0],
    num_candidates=8,
    guidance_scale=1e4,
    refine_steps=20,
    generator=torch.Generator().manual_seed(0),
)
np.save("planned_actions.npy", planned.actions)
plot_samples(planned.actions).savefig("planned.png")
print(f"cost {planned.costs[0]:.2g} after {planned.denoiser_calls} calls of the denoiser: planned_actions.npy, planned.png")
