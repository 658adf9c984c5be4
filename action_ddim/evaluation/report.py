"""What an assessment says, for a terminal, as `report.json` and as `report.html`, one file that needs no other."""

import dataclasses
import html
from pathlib import Path

from action_ddim import __version__
from action_ddim.atomic import written_whole
from action_ddim.evaluation.evaluate import DDIM_TABLE_2, LATENT_MOMENTS, TARGET_STRENGTH, Assessment
from action_ddim.evaluation.metrics import TARGETS
from action_ddim.evaluation.model_card import with_evaluation
from action_ddim.evaluation.page import Picture, to_page, write_both
from action_ddim.evaluation.realism import Comparison
from action_ddim.evaluation.tables import Table, targets_table

FIGURE_NAMES = {
    "classifier_accuracy": "forest on features told them apart",
    "classifier_accuracy_on_grid": "forest on features, on a pixel grid",
    "classifier_accuracy_without_rests": "forest on features, without rests",
    "sequence_classifier_accuracy": "MiniRocket on sequences told them apart",
    "sequence_classifier_accuracy_on_grid": "MiniRocket on sequences, on a pixel grid",
    "sequence_classifier_accuracy_without_rests": "MiniRocket on sequences, without rests",
    "frechet_distance": "Frechet distance of features",
    "js_duration": "Jensen-Shannon, duration",
    "js_path_length": "Jensen-Shannon, path length",
    "js_peak_speed": "Jensen-Shannon, peak speed",
    "js_press_time": "Jensen-Shannon, press time",
    "js_gesture_type": "Jensen-Shannon, gesture type",
}
NUM_TELLING = 3  # features


def tables(assessment: Assessment) -> list[Table]:
    """Return the report's tables, in order."""
    return [
        targets_table(assessment.reconstruction[TARGET_STRENGTH]),
        _reconstruction_table(assessment),
        _inversion_table(assessment),
        *realism_tables(assessment),
        _types_table(assessment),
        *_not_finite_tables(assessment),
    ]


def _reconstruction_table(assessment: Assessment) -> Table:
    by_strength = assessment.reconstruction
    rows = tuple(
        (name, *(f"{metrics[name]:.4g}" for metrics in by_strength.values())) for name in next(iter(by_strength.values()))
    )
    return Table(
        "Reconstruction",
        ("metric", *(f"strength {strength:g}" for strength in by_strength)),
        rows,
        f"{assessment.num_sequences} held-out sequences, noised to a fraction of the schedule and denoised with DDIM, in"
        f" {assessment.settings.recon_steps} steps over the whole of it. The targets are for strength {TARGET_STRENGTH:g}.",
    )


def _inversion_table(assessment: Assessment) -> Table:
    names = ("mse", "press_accuracy", "residual", *LATENT_MOMENTS)
    rows = tuple(
        (str(S), *(f"{values[name]:.3g}" for name in names), f"{DDIM_TABLE_2[S]:g}")
        for S, values in assessment.inversion.items()
    )
    count = min(assessment.settings.num_inverted, assessment.num_sequences)
    return Table(
        "DDIM inversion",
        ("steps", *(name.replace("_", " ") for name in names), "mse, DDIM paper"),
        rows,
        f"{count} held-out sequences, encoded and decoded in as many steps. Latents that are standard normal have mean 0,"
        " deviation 1 and excess kurtosis 0. The last column is table 2 of the DDIM paper (arXiv 2010.02502), for images.",
    )


def realism_tables(assessment: Assessment) -> list[Table]:
    """Return the figures of realism, and below them what tells most where that was measured."""
    realism = assessment.realism
    rows = tuple((label, *_cells(realism.figures[name])) for name, label in FIGURE_NAMES.items() if name in realism.figures)
    note = (
        f"{realism.num_sequences} sequences on either side. The floor is the same figure between two halves of the real"
        " actions. A classifier that is right half of the time sees no difference; distances are best at 0."
        " The pixel grid is of 1920 x 1080; without rests, the steps that rest are cut out, on both sides."
    )
    note, columns = " ".join(filter(None, (note if rows else "", realism.reason))), ("drawn", "floor")
    found = [Table("Realism of drawn actions", ("figure", *columns), rows, note)]
    telling = [
        (f"{kind}{name}", *_cells(each))
        for kind, measured, num in (("", realism.by_feature, NUM_TELLING), ("steps ", realism.by_stretch, 1))
        for name, each in sorted(measured.items(), key=lambda item: -item[1].value)[:num]
    ]
    note = (
        "How often drawn are told from real actions by that alone: the three features and the stretch of time that tell most."
    )
    return [*found, Table("What gives the drawings away", ("by", *columns), tuple(telling), note)] if telling else found


def _cells(figure: Comparison) -> tuple[str, str]:
    return f"{figure.value:.3f}", f"{figure.floor:.3f}"


def _types_table(assessment: Assessment) -> Table:
    shares = assessment.realism.type_shares
    rows = tuple((name, *(f"{100 * shares[of][name]:.1f} %" for of in ("drawn", "real"))) for name in shares["real"])
    return Table("Gesture types", ("type", "drawn", "real"), rows, "Shares of the sequences.")


def _not_finite_tables(assessment: Assessment) -> list[Table]:
    """Return a table of what is not finite; none of a model that is as it should be."""
    rows = tuple((name, str(count)) for name, count in assessment.not_finite.items() if count)
    note = "The model has diverged: these sequences are NaN or infinite, and all figures are of the others."
    return [Table("Not finite", ("sequences", "not finite"), rows, note)] if rows else []


def to_json(assessment: Assessment, model: str, data_dir: str) -> dict:
    """Return what `report.json` holds: the assessment, the model, the data, and each target with whether it is met."""
    metrics = assessment.reconstruction[TARGET_STRENGTH]
    targets = {
        target.name: {
            "values": {name: metrics[name] for name in target.metrics},
            "target": target.wanted,
            "met": target.is_met(metrics),
        }
        for target in TARGETS
    }
    return {
        "action_ddim": __version__,
        "model": model,
        "data_dir": data_dir,
        "targets": targets,
        **dataclasses.asdict(assessment),
    }


def to_html(assessment: Assessment, pictures: list[Picture], model: str, data_dir: str) -> str:
    """Return the report as a page with its figures within."""
    verdict = "met" if all(target.is_met(assessment.reconstruction[TARGET_STRENGTH]) for target in TARGETS) else "missed"
    first, *others = tables(assessment)
    introduction = f"""<p><code>{html.escape(model)}</code> on {assessment.num_sequences} held-out sequences of
{assessment.seq_len} steps from <code>{html.escape(data_dir)}</code>; action_ddim {__version__},
seed {assessment.settings.seed}.</p>
<p class="verdict {verdict}">{html.escape(first.note)}</p>"""
    shown = [dataclasses.replace(first, note=""), *others]
    return to_page(model, "How good the model is", introduction, shown, pictures)


def update_card(card: Path, assessment: Assessment) -> None:
    """Write the realism of drawn actions into a model card.

    Raises:
        UserError: it cannot be written.
    """
    settings = assessment.settings
    drawn = f"actions drawn in {settings.sample_steps} DDIM steps, seed {settings.seed}"
    how = f"Measured by `action-ddim evaluate` {__version__}: {drawn}."
    content = with_evaluation(card.read_bytes(), realism_tables(assessment), how)
    with written_whole("--update_card", card) as file:
        file.write(content)


def write_report(folder: Path, assessment: Assessment, pictures: list[Picture], model: str, data_dir: str) -> None:
    """Write `report.json` and `report.html` to a folder, made if missing.

    Raises:
        UserError: they cannot be written.
    """
    write_both(folder, to_json(assessment, model, data_dir), to_html(assessment, pictures, model, data_dir))
