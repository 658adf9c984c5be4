"""DDIM diffusion models of pointer and touch actions: sequences of `[x, y, press]`."""

import importlib

__version__ = "0.1.0"

# Loaded on first use (PEP 562), so that --help, flag errors and the generator do not wait for torch. Those that a saved
# pipeline names are loaded together: diffusers looks for them in sys.modules and does not import them.
_PIPELINE_MODULES = ("action_ddim.denoiser", "action_ddim.scheduler", "action_ddim.pipeline")
_PUBLIC = {
    "ActionTransformer1DModel": "action_ddim.denoiser",
    "ExactDDIMScheduler": "action_ddim.scheduler",
    "ActionDDIMPipeline": "action_ddim.pipeline",
    "ActionPipelineOutput": "action_ddim.pipeline_output",
    "ActionDataset": "action_ddim.data.dataset",
    "TrainConfig": "action_ddim.training.config",
    "train": "action_ddim.training.loop",
    "build_mask": "action_ddim.inpainting",
    "plan": "action_ddim.planning.planner",
    "plot_samples": "action_ddim.evaluation.plots",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _PUBLIC[name] in _PIPELINE_MODULES:
        for module in _PIPELINE_MODULES:
            importlib.import_module(module)
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__():
    return __all__
