"""The self-contained form of a pipeline: weights, and the code that they need, in one folder.

    exported/
      model_index.json             names the classes by the files below
      pipeline.py                  ActionDDIMPipeline, and what it imports: actions.py, export.py, ...
      denoiser/denoiser.py         ActionTransformer1DModel, beside config.json and the weights
      scheduler/scheduler.py       ExactDDIMScheduler, beside scheduler_config.json
      README.md, *.png             the model card and its figure, where the pipeline was loaded from a folder that has them

diffusers loads it with `trust_remote_code=True`. It copies the files that `pipeline.py` imports relatively, one level
deep, so that `pipeline.py` has to import by itself whatever those import of each other.
"""

import inspect
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

from diffusers import DiffusionPipeline
from diffusers.utils import PushToHubMixin
from huggingface_hub import create_repo

CARD_NAME, FIGURE_NAME = "README.md", "reconstructions.png"
# How a card says to load a model: where this package is installed, and anywhere.
ADDRESS = "path/to/this/folder"
LOAD_INSTALLED = f"""from action_ddim import ActionDDIMPipeline

pipeline = ActionDDIMPipeline.from_pretrained("{ADDRESS}")"""
LOAD_EXPORTED = f"""from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{ADDRESS}", trust_remote_code=True)"""
RELATIVE_IMPORT = re.compile(r"^from \.(\w+) import", re.MULTILINE)


def export_pipeline(pipeline: DiffusionPipeline, folder: Path, address: str = ADDRESS) -> None:
    """Write the self-contained form of a pipeline to a folder, made if missing; nothing is left where that fails.

    Args:
        address: What the card calls the folder.

    Raises:
        ValueError: the folder is not empty.
    """
    existed = folder.exists()
    if existed and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder; name a new one")
    try:
        pipeline.save_pretrained(folder)
        _add_code(pipeline, folder)
        _add_card(pipeline, folder, address)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if existed:
            folder.mkdir(exist_ok=True)
        raise


def _add_code(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Put the code of a saved pipeline beside it, and name it in the index."""
    index_path = folder / "model_index.json"
    index = json.loads(index_path.read_text())
    source = Path(inspect.getfile(type(pipeline)))
    shutil.copy(source, folder)
    for name in RELATIVE_IMPORT.findall(source.read_text()):
        shutil.copy(source.with_name(f"{name}.py"), folder)
    index["_class_name"] = [source.stem, type(pipeline).__name__]
    for name, component in pipeline.components.items():
        component = getattr(component, "_orig_mod", component)  # of one that torch.compile wrapped
        if not type(component).__module__.startswith("diffusers."):
            source = Path(inspect.getfile(type(component)))
            shutil.copy(source, folder / name)
            index[name] = [source.stem, type(component).__name__]
    index_path.write_text(json.dumps(index, indent=2) + "\n")
    for path in (index_path, *folder.glob("*/*config.json")):  # where the weights were loaded from is nobody else's business
        config = {key: value for key, value in json.loads(path.read_text()).items() if key != "_name_or_path"}
        path.write_text(json.dumps(config, indent=2) + "\n")


def _add_card(pipeline: DiffusionPipeline, folder: Path, address: str) -> None:
    """Copy card and figure from where the pipeline was loaded, if they are there; the card then says how to load this form."""
    source = Path(pipeline.name_or_path or folder)
    if (source / CARD_NAME).is_file():
        card = (source / CARD_NAME).read_bytes().replace(LOAD_INSTALLED.encode(), LOAD_EXPORTED.encode())
        (folder / CARD_NAME).write_bytes(card.replace(f'("{ADDRESS}"'.encode(), f'("{address}"'.encode()))
    if (source / FIGURE_NAME).is_file():
        shutil.copy(source / FIGURE_NAME, folder)


class SelfContainedMixin(PushToHubMixin):
    """`export` and `push_to_hub` of the self-contained form, for a `DiffusionPipeline`."""

    def export(self, save_directory: str | os.PathLike) -> None:
        """Write the self-contained form, with its code and model card, that loads where this package is not installed.

        `DiffusionPipeline.from_pretrained(save_directory, trust_remote_code=True)` loads it.

        Raises:
            ValueError: the folder is not empty.
        """
        export_pipeline(self, Path(save_directory))

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload the self-contained form to the Hub; return the address of the commit.

        Anyone loads it by `DiffusionPipeline.from_pretrained(repo_id, trust_remote_code=True)`.
        """
        repo_id = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            export_pipeline(self, Path(folder), repo_id)
            return self._upload_folder(folder, repo_id, token=token, commit_message=commit_message, create_pr=create_pr)
