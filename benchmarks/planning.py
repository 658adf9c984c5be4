"""Set the planner beside optimizers, planners by sampling, and a network that was trained to plan, on tasks of six families.

    python benchmarks/planning.py --model checkpoints/pipeline --out planning    # one thread: twenty minutes
    python benchmarks/planning.py --model checkpoints/pipeline --out planning --quick    # a minute and a half
    python benchmarks/planning.py --model checkpoints/pipeline --tune    # settings, on tasks of another seed

Arms are of two kinds, and are compared within theirs. Those that are *told* begin from what the task fixes (its places, and
the press where it is told), as the planner does by inpainting; those with the *cost only* know nothing else. Every arm runs
once to its whole budget, and what it has is read off at equal cost evaluations, at equal gradient evaluations and at equal time
on one thread, each task's share of a batch; `alone` is the time of a task by itself. The planner is measured as a whole: it
has nothing before it has all. `--families` shares the work out to processes.

Realism is judged on tasks that held-out actions do (`hindsight`), half of those against the other half. Needs the extras
`planning` and `eval`.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from action_ddim.actions import PRESS
from action_ddim.cli.inputs import open_data
from action_ddim.data.features import action_features
from action_ddim.errors import UserError
from action_ddim.evaluation.realism import (
    Described,
    check_eval_packages,
    classifier_accuracy,
    sequence_classifier_accuracy,
)
from action_ddim.evaluation.tables import Table
from action_ddim.planning import baselines
from action_ddim.planning.costs import TOLERANCE
from action_ddim.planning.planner import plan
from action_ddim.planning.record import Record, Search, Snapshot, joined
from action_ddim.planning.regression import Regression, hindsight
from action_ddim.planning.starts import cold_starts, told_starts
from action_ddim.planning.tasks import FAMILIES, sample_tasks
from action_ddim.pretrained import load_pipeline
from augmentation.gestures import GestureConfig, generate

RESTARTS = 4  # of every search, and drafts of the planner
JUDGED = ("tap", "timing", "swipe", "drag")  # what recordings do; they were not told to avoid discs, or to choose
REFERENCE = "ours: inpainting, guidance"  # whose evaluations, gradients and time the others get
LEAST_JUDGED = 20  # recordings a side
HELD_OUT_SEED, TUNING_SEED = 1, 1000  # of the generator: the documented validation data; added to --seed
QUICK = {"num_tasks": 16, "batch_size": 16, "budget": 96, "num_updates": 100, "families": ["tap", "swipe", "detour"]}
NOT_SMOOTH, GRADIENT_FREE = ("timing",), {"guidance_scale": 0.0, "refine_steps": 0}
OURS: dict[str, dict[str, Any]] = {
    "ours: inpainting": {},
    REFERENCE: {"guidance_scale": 3e4},
    "ours: inpainting, guidance, refinement": {"guidance_scale": 3e3, "refine_steps": 20},
    "ours, cost only: guidance": {"inpaint": False, "guidance_scale": 30.0},
    "ours, cost only: search": {"inpaint": False, "search_rounds": 4, "num_candidates": 16},
    "model unguided, best of 16": {"inpaint": False, "num_candidates": 16},
}


class Arm(NamedTuple):
    """A way to plan: `search(family, tasks, num_tasks, generator)`."""

    name: str
    told: bool
    search: Callable[[str, Any, int, torch.Generator], Search]

    @property
    def is_ours(self) -> bool:
        return self.name.startswith("ours")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def started(kind: str, tasks: Any, num_tasks: int, seq_len: int, generator: torch.Generator) -> torch.Tensor:
    """Return the starts of a search: `cold`, or `straight` and `minimum jerk` through what the tasks fix."""
    if kind == "cold":
        return cold_starts(num_tasks, RESTARTS, seq_len, generator)
    rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
    given = tasks.gestures(seq_len, RESTARTS, rng)
    return told_starts(given, num_tasks, minimum_jerk=kind == "minimum jerk")


def later(search: Search, seconds: float) -> Search:
    """Return a search with what its starts took."""
    return search._replace(snapshots=[each._replace(seconds=each.seconds + seconds) for each in search.snapshots])


def searching(kind: str, search: Callable, seq_len: int, budget: int) -> Callable:
    """Return the search of an arm from such starts."""

    def run(_: str, tasks: Any, num_tasks: int, generator: torch.Generator) -> Search:
        clock = time.perf_counter()
        starts = started(kind, tasks, num_tasks, seq_len, generator)
        seconds = time.perf_counter() - clock
        return later(search(tasks, starts, budget, generator), seconds)

    return run


def planning(pipeline: Any, options: dict[str, Any]) -> Callable:
    """Return the search of an arm of the planner: with one draft, and with all of them.

    Where the cost has no gradient, the planner goes without guidance and refinement, as its user would.
    """

    def run(family: str, tasks: Any, num_tasks: int, generator: torch.Generator) -> Search:
        chosen = {**options, **(GRADIENT_FREE if family in NOT_SMOOTH else {})}
        most = options.get("num_candidates", RESTARTS)
        snapshots = []
        for count in (1, most) if "search_rounds" not in options else (most,):
            made = plan(pipeline, tasks, num_tasks=num_tasks, generator=generator, **{**chosen, "num_candidates": count})
            spent = made.cost_evaluations, made.gradient_evaluations, made.seconds
            snapshots.append(Snapshot(*spent, made.costs, made.actions))
        return Search(snapshots, made.candidates)

    return run


def regressing(regressions: dict[str, Regression]) -> Callable:
    def run(family: str, tasks: Any, num_tasks: int, generator: torch.Generator) -> Search:
        record = Record(tasks, num_tasks, 1)  # whose clock the network is in
        rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
        regression = regressions[family]
        press = torch.as_tensor(tasks.gestures(regression.seq_len, 1, rng).known[..., PRESS])
        actions = regression(tasks, press)
        record.propose_actions(actions)
        return record.ended(actions)

    return run


def make_arms(pipeline: Any, recordings: np.ndarray, regressions: dict[str, Regression], budget: int) -> list[Arm]:
    seq_len = pipeline.denoiser.config.seq_len
    by_recordings = partial(baselines.recorded, recordings=torch.as_tensor(recordings))
    searches: list[tuple[str, str, Callable]] = [
        ("minimum jerk", "minimum jerk", baselines.propose_only),
        ("minimum jerk, Adam", "minimum jerk", baselines.adam),
        ("minimum jerk, L-BFGS", "minimum jerk", baselines.lbfgs),
        ("straight, Adam", "straight", baselines.adam),
        ("straight, L-BFGS", "straight", baselines.lbfgs),
        ("cold, Adam", "cold", baselines.adam),
        ("cold, L-BFGS", "cold", baselines.lbfgs),
        ("CEM", "cold", baselines.cem),
        ("MPPI", "cold", baselines.mppi),
        ("CMA-ES, all numbers", "cold", baselines.evolve_all),
        ("CMA-ES, six numbers", "cold", baselines.evolve_six),
        ("recordings", "cold", by_recordings),
    ]
    arms = [Arm(name, kind != "cold", searching(kind, search, seq_len, budget)) for name, kind, search in searches]
    arms += [Arm("regression", True, regressing(regressions))]
    arms += [Arm(name, options.get("inpaint", True), planning(pipeline, options)) for name, options in OURS.items()]
    return sorted(arms, key=lambda arm: (not arm.told, arm.is_ours))


def run_arm(arm: Arm, family: str, tasks: Any, num_tasks: int, batch_size: int, seed: int) -> Search:
    """Run an arm on all tasks, a batch at a time."""
    searches = []
    for index, first in enumerate(range(0, num_tasks, batch_size)):
        end = min(first + batch_size, num_tasks)
        generator = seeded(seed + 7919 * index)
        searches.append(arm.search(family, tasks.select(slice(first, end)), end - first, generator))
    return joined(searches)


@torch.no_grad()
def curves(search: Search, tasks: Any) -> dict[str, list[float]]:
    """Return what there is after each snapshot: evaluations and gradients a task, ms a task, quartiles of cost, success, miss.

    `miss` is the mean root of the cost: what is violated, in screens.
    """
    rows = []
    for evaluations, gradients, seconds, costs, actions in search.snapshots:
        done = tasks.success(torch.as_tensor(actions)[:, None]).float().mean().item()
        quartiles = np.quantile(costs, (0.5, 0.25, 0.75)).tolist()
        miss = float(np.sqrt(costs).mean())
        rows.append((evaluations, gradients, 1000 * seconds / len(costs), *quartiles, done, miss))
    names = ("evaluations", "gradients", "ms", "median", "lower", "upper", "success", "miss")
    return {name: list(map(float, column)) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def at(curve: dict[str, list[float]], axis: str, value: float) -> int | None:
    """Return the last snapshot that took no more than so much; None where there is none."""
    return max((index for index, spent in enumerate(curve[axis]) if spent <= value * (1 + 1e-9)), default=None)


def time_to(curve: dict[str, list[float]], target: float) -> float:
    """Return the ms a task after which the median cost is as low as the target; infinite where it never is."""
    return min((ms for ms, cost in zip(curve["ms"], curve["median"], strict=True) if cost <= target), default=float("inf"))


@torch.no_grad()
def diversity(search: Search, tasks: Any) -> dict[str, float]:
    """Return the share of tasks with two modes of which both are done by a candidate, and the entropy of the modes in bits."""
    candidates = torch.as_tensor(search.candidates)
    done, mode = tasks.success(candidates), tasks.mode(candidates)
    counts = torch.stack([(done & (mode == index)).sum(dim=1) for index in (0, 1)], dim=1).double()
    share = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    entropy = -(share * share.clamp(min=1e-12).log2()).sum(dim=1)
    return {"both": float((counts > 0).all(dim=1).double().mean()), "entropy": float(entropy.mean())}


def measure_family(arms: list[Arm], family: str, args: argparse.Namespace, seq_len: int, progress: tqdm) -> dict[str, Any]:
    """Return the curves of all arms on tasks of a family, the time of one task alone, and the diversity of two modes."""
    tasks: Any = sample_tasks(family, args.num_tasks, seq_len, seeded(args.seed))
    found = {}
    for arm in arms:
        progress.set_description(f"{family}, {arm.name}")
        search = run_arm(arm, family, tasks, args.num_tasks, args.batch_size, args.seed)
        alone = arm.search(family, tasks.select(slice(0, 1)), 1, seeded(args.seed)).snapshots[-1].seconds
        found[arm.name] = {**curves(search, tasks), "alone_ms": 1000 * alone}
        if family == "either":
            found[arm.name]["diversity"] = diversity(search, tasks)
        progress.update()
    return found


def plausible(plans: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Return the share of plans that press once, as long as 98 in 100 recordings do, and that of those no faster than 99."""
    features, known = action_features(plans), action_features(real)
    shortest, longest = np.quantile(known["press_time"], (0.01, 0.99))
    press = (features["num_presses"] == 1) & (features["press_time"] >= shortest) & (features["press_time"] <= longest)
    speed = features["peak_speed"] <= np.quantile(known["peak_speed"], 0.99)
    return {"press": float(press.mean()), "speed": float(speed.mean())}


def judge(plans: np.ndarray, real: np.ndarray, seed: int) -> dict[str, float]:
    drawn, held_out = (Described.of(actions).features for actions in (plans, real))
    return {
        "features": classifier_accuracy(drawn, held_out, seed),
        "sequences": sequence_classifier_accuracy(plans, real, seed),
        **plausible(plans, real),
    }


def measure_realism(arms: list[Arm], held_out: np.ndarray, args: argparse.Namespace, progress: tqdm) -> dict[str, Any]:
    """Return how well plans are told from recordings of such tasks, by family and arm; held-out actions are the floor."""
    halves = np.array_split(np.random.default_rng(args.seed).permutation(len(held_out)), 2)
    found: dict[str, Any] = {}
    for family in (family for family in JUDGED if family in args.families):
        sides = [hindsight(family, held_out[half], seeded(args.seed)) for half in halves]
        count = min(args.num_tasks, *(len(rows) for _, rows in sides))
        if count < LEAST_JUDGED:
            progress.write(f"{family}: {count} of the held-out actions a side do such a task, too few to judge realism")
            progress.update(len(arms))
            continue
        tasks = sides[0][0].select(slice(0, count))
        one, other = (held_out[half][rows[:count]] for half, (_, rows) in zip(halves, sides, strict=True))
        found[family] = {"held-out actions": {**judge(one, other, args.seed), "success": 1.0, "count": count}}
        for arm in arms:
            progress.set_description(f"realism of {family}, {arm.name}")
            plans = run_arm(arm, family, tasks, count, args.batch_size, args.seed).snapshots[-1].actions
            done = tasks.success(torch.as_tensor(plans)[:, None]).float().mean().item()
            found[family][arm.name] = {**judge(plans, other, args.seed), "success": done}
            progress.update()
    return found


def success_table(found: dict[str, Any], arms: list[Arm], axis: str | None, title: str) -> Table:
    """Return the share of tasks done, at what the reference took of an axis, or at the whole budget."""
    rows = []
    for arm in arms:
        cells = []
        for measured in found.values():
            curve = measured[arm.name]
            index = -1 if axis is None else at(curve, axis, measured[REFERENCE][axis][-1])
            without = axis == "gradients" and not curve["gradients"][-1]
            cells.append("-" if without else "none yet" if index is None else f"{curve['success'][index]:.2f}")
        rows.append((arm.name, "told" if arm.told else "cost only", *cells))
    spent = [f"{family} {measured[REFERENCE][axis][-1]:.0f}" for family, measured in found.items()] if axis else []
    note = f"at {axis} a task: {', '.join(spent)}" if axis else ""
    return Table(title, ("", "knows", *found), tuple(rows), note)


def time_table(found: dict[str, Any], arms: list[Arm], batch_size: int) -> tuple[Table, dict[str, Any]]:
    """Return how often sooner an arm reaches what the best baseline of its kind has in the end, than the soonest of those."""
    targets: dict[str, Any] = {}
    cells: dict[str, list[str]] = {arm.name: [] for arm in arms}
    for family, measured in found.items():
        for told in (True, False):
            kind = [arm for arm in arms if arm.told == told]
            others = [measured[arm.name] for arm in kind if not arm.is_ours]
            target = max(TOLERANCE**2, min(curve["median"][-1] for curve in others))
            soonest = min(time_to(curve, target) for curve in others)
            targets.setdefault(family, {})["told" if told else "cost only"] = {"cost": target, "ms": soonest}
            for arm in kind:
                taken = time_to(measured[arm.name], target)
                cells[arm.name].append("never" if np.isinf(taken) else f"{taken:.2f} ({soonest / taken:.2g})")
    note = (
        f"ms a task in batches of {batch_size} on one thread, and in brackets how many times sooner than the soonest baseline\n"
        "that knows as much; the target is the median cost of the best of those at its whole budget, or the tolerance squared"
    )
    rows = tuple((arm.name, "told" if arm.told else "cost only", *cells[arm.name]) for arm in arms)
    return Table("Time to target", ("", "knows", *found), rows, note), targets


def effort_table(found: dict[str, Any], arms: list[Arm]) -> Table:
    """Return what the arms take, and how far off their plans are."""
    rows = []
    for arm in arms:
        curves_of = [measured[arm.name] for measured in found.values()]
        last = [np.mean([curve[name][-1] for curve in curves_of]) for name in ("evaluations", "gradients", "ms", "miss")]
        cells = (
            *(f"{value:.0f}" for value in last[:2]),
            f"{last[2]:.1f}",
            f"{np.mean([c['alone_ms'] for c in curves_of]):.1f}",
        )
        rows.append((arm.name, *cells, f"{last[3]:.4f}"))
    columns = ("", "evaluations", "gradients", "ms, in a batch", "ms, alone", "miss, in screens")
    return Table("Effort and violation, means over families", columns, tuple(rows), "a task; miss: mean root of the cost")


def diversity_table(found: dict[str, Any], arms: list[Arm]) -> Table:
    rows = tuple((arm.name, *(f"{value:.2f}" for value in found["either"][arm.name]["diversity"].values())) for arm in arms)
    return Table("Two modes: either", ("", "both found", "entropy, bits"), rows, "among what restarts and drafts end with")


def realism_table(judged: dict[str, Any]) -> Table:
    names = list(next(iter(judged.values())))
    columns = tuple(f"{family}: {figure}" for family in judged for figure in ("features", "sequences", "press", "speed"))
    rows = tuple(
        (
            name,
            *(
                f"{measured[name][figure]:.2f}"
                for measured in judged.values()
                for figure in ("features", "sequences", "press", "speed")
            ),
        )
        for name in names
    )
    note = "features, sequences: accuracy of both judges, .5 is perfect; press, speed: share of plausible presses and motions"
    return Table("Realism, on tasks that held-out actions do", columns=("", *columns), rows=rows, note=note)


def plot_curves(found: dict[str, Any], arms: list[Arm], axis: str, label: str) -> Figure:
    """Draw the median best cost of the arms, and its quartiles: told above, cost only below, a column a family."""
    figure = Figure(figsize=(3.2 * len(found) + 3, 7), layout="constrained")
    panels = figure.subplots(2, len(found), squeeze=False, sharey=True)
    for row, told in enumerate((True, False)):
        kind = [arm for arm in arms if arm.told == told]
        for column, (family, measured) in enumerate(found.items()):
            panel = panels[row, column]
            for index, arm in enumerate(kind):
                curve = measured[arm.name]
                spent, median, lower, upper = (np.maximum(curve[name], 1e-9) for name in (axis, "median", "lower", "upper"))
                style = {
                    "color": f"C{index}",
                    "marker": "*" if arm.is_ours else "",
                    "lw": 2.5 if arm.is_ours else 1.2,
                    "ms": 10,
                }
                marker = style["marker"] or ("o" if len(spent) == 1 else "")
                panel.plot(spent, median, **{**style, "marker": marker, "ms": 10 if arm.is_ours else 4}, label=arm.name)
                panel.fill_between(spent, lower, upper, color=style["color"], alpha=0.12, lw=0)
            panel.axhline(TOLERANCE**2, color="black", lw=0.8, ls=":")
            panel.set(xscale="log", yscale="log", title=f"{family}, {'told' if told else 'cost only'}")
            panel.set_xlabel(label, fontsize=9)
        panels[row, 0].set_ylabel("best cost, median and quartiles", fontsize=9)
        panels[row, -1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def settings() -> Iterator[tuple[str, str, str, Callable, dict[str, Any]]]:
    """Yield what is tuned: name, kind of start, name and value of a setting, search."""
    for kind in ("cold", "straight"):
        for value in (0.003, 0.01, 0.03):
            yield f"{kind}, Adam", kind, f"learning_rate {value:g}", baselines.adam, {"learning_rate": value}
    for least in (0.005, 0.02, 0.05):
        for elite in (4, 8):
            yield "CEM", "cold", f"least {least:g}, elite {elite}", baselines.cem, {"least": least, "elite": elite}
    for deviation in (0.25, 0.5, 1.0):
        for temperature in (0.03, 0.1, 0.3):
            chosen = {"deviation": deviation, "temperature": temperature}
            yield "MPPI", "cold", f"deviation {deviation:g}, temperature {temperature:g}", baselines.mppi, chosen
    for value in (0.003, 0.01, 0.03, 0.1):
        yield "CMA-ES, all numbers", "cold", f"deviation {value:g}", baselines.evolve_all, {"deviation": value}
    for value in (0.1, 0.2, 0.3):
        yield "CMA-ES, six numbers", "cold", f"deviation {value:g}", baselines.evolve_six, {"deviation": value}


def tune(args: argparse.Namespace, pipeline: Any) -> Table:
    """Return the success and the cost of settings on tasks of another seed than those that are measured."""
    seq_len, rows = pipeline.denoiser.config.seq_len, []
    trials = [
        (name, said, searching(kind, partial(search, **chosen), seq_len, args.budget))
        for name, kind, said, search, chosen in settings()
    ]
    for scale in (300.0, 3e3, 1e4, 3e4):
        trials.append(("ours: inpainting, guidance", f"scale {scale:g}", planning(pipeline, {"guidance_scale": scale})))
    for scale in (30.0, 300.0, 3e3):
        options = {"inpaint": False, "guidance_scale": scale}
        trials.append(("ours, cost only: guidance", f"scale {scale:g}", planning(pipeline, options)))
    for name, said, search in tqdm(trials, unit="setting", disable=None):
        done, cost = [], []
        for family in args.families:
            tasks = sample_tasks(family, args.num_tasks, seq_len, seeded(args.seed + TUNING_SEED))
            last = search(family, tasks, args.num_tasks, seeded(args.seed + TUNING_SEED)).snapshots[-1]
            done.append(tasks.success(torch.as_tensor(last.actions)[:, None]).float().mean().item())
            cost.append(np.log10(np.maximum(last.costs, TOLERANCE**2)).mean())
        rows.append((name, said, f"{np.mean(done):.3f}", f"{10 ** np.mean(cost):.2e}", *(f"{value:.2f}" for value in done)))
    columns = ("", "setting", "success", "cost, geometric mean", *args.families)
    return Table(
        "Settings", columns, tuple(rows), f"tasks of seed {args.seed + TUNING_SEED}, costs below {TOLERANCE**2:g} as that"
    )


def read_actions(args: argparse.Namespace, seq_len: int, folder: str | None, count: int, seed: int) -> np.ndarray:
    """Return actions of a folder, or as many of the generator, as the documented data sets hold."""
    if folder is None:
        return np.concatenate(list(generate(GestureConfig(num_sequences=count, sequence_length=seq_len, seed=seed))))
    data = open_data(folder, args.model, seq_len)
    return data.read(range(len(data))).numpy()


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], formatter_class=formatter)
    add = parser.add_argument
    add("--model", required=True, default=argparse.SUPPRESS, help="pipeline folder that a training run leaves")
    add("--data_dir", help="held-out actions; without it those of the generator, the documented validation data")
    add("--train_data_dir", help="actions that the network learns from and that are tried; without it the documented data")
    add("--out", type=Path, help="folder for planning.json and the figures")
    add("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES), help="of tasks")
    add("--num_tasks", type=int, default=100, help="of each family")
    add("--batch_size", type=int, default=50, help="tasks that are planned together")
    add("--budget", type=int, default=256, help="cost evaluations a task")
    add("--num_updates", type=int, default=1000, help="of the network that is trained to plan")
    add("--seed", type=int, default=0, help="seed of tasks, noise and judges")
    add("--tune", action="store_true", help="measure settings of the arms instead, on tasks of another seed")
    add("--quick", action="store_true", help="a smoke test: few tasks and evaluations, whatever the other flags say")
    args = parser.parse_args(words)
    if args.quick:
        vars(args).update(QUICK)
    if min(args.num_tasks, args.batch_size, args.num_updates) < 1 or args.budget < 64 or args.seed < 0:
        parser.error("give a budget of at least 64, at least 1 of everything else, and no negative seed")
    return args


def measure(args: argparse.Namespace, pipeline: Any) -> tuple[list[Table], dict[str, Any], list[Arm]]:
    """Return the tables, and all that they are taken from."""
    seq_len = pipeline.denoiser.config.seq_len
    recordings = read_actions(args, seq_len, args.train_data_dir, 5000, 0)
    held_out = read_actions(args, seq_len, args.data_dir, 1000, HELD_OUT_SEED)
    regressions = {family: Regression(family, recordings, seeded(args.seed), args.num_updates) for family in args.families}
    arms = make_arms(pipeline, recordings, regressions, args.budget)
    judged = [family for family in JUDGED if family in args.families]
    with tqdm(total=len(arms) * (len(args.families) + len(judged)), unit="arm", disable=None) as progress:
        found = {family: measure_family(arms, family, args, seq_len, progress) for family in args.families}
        realism = measure_realism(arms, held_out, args, progress)
    times, targets = time_table(found, arms, args.batch_size)
    tables = [
        success_table(found, arms, None, f"Tasks done, whole budget of {args.budget} evaluations"),
        success_table(found, arms, "evaluations", f"Tasks done, at as many cost evaluations as {REFERENCE}"),
        success_table(found, arms, "gradients", f"Tasks done, at as many gradient evaluations as {REFERENCE}"),
        success_table(found, arms, "ms", f"Tasks done, in as many ms as {REFERENCE}"),
        times,
        effort_table(found, arms),
        *([diversity_table(found, arms)] if "either" in found else []),
        *([realism_table(realism)] if realism else []),
    ]
    trained = {family: regression.seconds for family, regression in regressions.items()}
    everything = {"families": found, "targets": targets, "realism": realism, "regression_seconds": trained}
    return tables, everything, arms


def main(words: list[str] | None = None) -> None:
    args = parse_args(words)
    torch.set_num_threads(1)
    try:
        pipeline = load_pipeline(args.model, "cpu")
        pipeline.set_progress_bar_config(disable=True)
        if args.tune:
            print(tune(args, pipeline).to_text())
            return
        check_eval_packages()
        tables, everything, arms = measure(args, pipeline)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    print("\n\n".join(table.to_text() for table in tables))
    trained = everything["regression_seconds"]
    print(f"\nregression: trained in {sum(trained.values()):.0f} s for {len(trained)} families")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        said = {name: str(value) for name, value in vars(args).items()}
        (args.out / "planning.json").write_text(json.dumps({"arguments": said, **everything}, indent=1))
        (args.out / "planning.md").write_text("\n\n".join(f"### {t.title}\n\n{t.to_markdown()}\n\n{t.note}" for t in tables))
        for axis, label in (("evaluations", "cost evaluations a task"), ("ms", "ms a task, in a batch, one thread")):
            plot_curves(everything["families"], arms, axis, label).savefig(args.out / f"planning_{axis}.png", dpi=100)


if __name__ == "__main__":
    main()
