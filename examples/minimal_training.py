"""The whole idea in one file: data, denoiser, loss, loop, moving average, sampling.

`train_diffusion_ddim.py` does the same with flags, validation, checkpoints, and draws that repeat on any number of processes.
This draws what it has learned into minimal_training.png: half a minute of training shows strokes, not yet good ones.
"""

import tempfile

import torch
from accelerate import Accelerator
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader

from action_ddim import ActionDataset, ActionDDIMPipeline, ActionTransformer1DModel, ExactDDIMScheduler, plot_samples
from action_ddim.actions import to_model_space
from action_ddim.randomness import draw_noise
from action_ddim.training.loss import diffusion_loss, draw_timesteps
from augmentation.gestures import GestureConfig, write_gestures

NUM_EPOCHS = 10
torch.manual_seed(0)
accelerator = Accelerator()

# Data: 1,000 synthetic clicks and swipes of 250 steps, `[x, y, press]` each, read into memory.
with tempfile.TemporaryDirectory() as folder:
    write_gestures(GestureConfig(num_sequences=1000), folder)
    dataset = ActionDataset(folder)
    dataset.load()
loader = DataLoader(dataset, batch_size=64, shuffle=True, collate_fn=lambda batch: batch)  # read as one tensor, (64, 250, 3)

# Denoiser: a transformer that predicts the clean actions, and which steps of them move (the rest head).
denoiser = ActionTransformer1DModel(d_model=64, num_layers=2, nhead=4, rest_head=True)
scheduler = ExactDDIMScheduler(
    beta_schedule="squaredcos_cap_v2", prediction_type="sample", timestep_spacing="trailing", clip_sample=False
)
optimizer = torch.optim.AdamW(denoiser.parameters(), lr=3e-3)
lr_scheduler = get_cosine_schedule_with_warmup(optimizer, 10, NUM_EPOCHS * len(loader))
denoiser, optimizer, loader, lr_scheduler = accelerator.prepare(denoiser, optimizer, loader, lr_scheduler)
ema = EMAModel(denoiser.parameters(), decay=0.999)

generator = torch.Generator(accelerator.device).manual_seed(accelerator.process_index)
for epoch in range(1, NUM_EPOCHS + 1):
    for actions in loader:
        sample = to_model_space(actions)
        noise = draw_noise(sample.shape, generator)
        timesteps = draw_timesteps(len(sample), scheduler.config.num_train_timesteps, generator, "logit_normal")
        loss = diffusion_loss(denoiser, scheduler, sample, noise, timesteps, velocity_weight=5.0, rest_weight=0.1).mean()
        accelerator.backward(loss)
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
        ema.step(denoiser.parameters())
    accelerator.print(f"epoch {epoch}: loss {loss.item():.4f}")

ema.copy_to(denoiser.parameters())
pipeline = ActionDDIMPipeline(accelerator.unwrap_model(denoiser).eval(), scheduler)
if accelerator.is_main_process:
    plot_samples(pipeline(5, num_inference_steps=20, generator=generator).actions).savefig("minimal_training.png")
