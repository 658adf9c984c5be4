"""The verbs for an agent: `gesture`, which does what is asked for in words, and `plan`, which makes a cost small."""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from action_ddim.actions import MAX_RATE, NUM_CHANNELS
from action_ddim.cli.inputs import add_output, check_at_least, check_outputs, check_steps, model_parser
from action_ddim.cli.outputs import write_actions, write_plot
from action_ddim.errors import UserError
from action_ddim.pretrained import load_pipeline

GESTURES = ("click", "double_click", "swipe", "drag")
# What each cost is made of, as `planning.costs` has it, which takes a second to import.
PARAMETERS = {
    "tap": ("target", "window"),
    "either": ("targets", "window"),
    "swipe": ("begin", "end", "duration"),
    "drag": ("points",),
    "detour": ("begin", "end", "center", "radius"),
    "timing": ("target", "first", "last"),
}


def gesture(argv: list[str], prog: str | None) -> None:
    """Click, double-click, swipe or drag at given places."""
    parser = model_parser(prog, gesture.__doc__, batch_size=256)
    add = parser.add_argument
    add("word", choices=GESTURES, help="what to do")
    points = "places, shares of the screen: click and double_click do one at each, swipe takes two, drag two or more"
    add("--points", type=_place, nargs="+", required=True, metavar="X,Y", help=points)
    add_output(parser)
    add("--rate", type=float, required=True, help="steps a second of the model's actions")
    add("--num", type=int, default=1, help="how many of each")
    add("--duration_ms", type=float, help="from press-down to release, 80 of clicks and 300 of strokes by default")
    add("--onset_ms", type=float, help="when it begins, by default so that it ends as long before the end")
    add("--start", type=_place, metavar="X,Y", help="where the pointer is at first, the model's choice by default")
    add("--num_inference_steps", type=int, default=10, help="DDIM steps")
    args = parser.parse_args(argv)
    check_at_least(args, 1, "num", "num_inference_steps", "batch_size")
    count = len(args.points)
    if args.word in ("swipe", "drag") and (count < 2 or (args.word == "swipe" and count > 2)):
        raise UserError(f"--points are {count}; {args.word} takes {'two' if args.word == 'swipe' else 'two or more'}")
    if not 0 < args.rate <= MAX_RATE:
        raise UserError(f"--rate is {args.rate:g}; give the steps a second, such as 125, up to {MAX_RATE:g}")
    if args.duration_ms is not None and not 0 < args.duration_ms < np.inf:
        raise UserError(f"--duration_ms is {args.duration_ms:g}; give a time above 0")
    check_outputs(args)
    pipeline = load_pipeline(args.model, args.device)
    check_steps(args, pipeline, "num_inference_steps")
    from action_ddim.planning import gestures
    from action_ddim.randomness import Stream, seeded_generator

    words = {name: getattr(args, name) for name in ("duration_ms", "onset_ms", "start") if getattr(args, name) is not None}
    places = np.array(args.points, np.float32)
    places = places[None] if args.word in ("swipe", "drag") else places
    places = places.repeat(args.num, axis=0)
    word: Callable[..., gestures.Gestures] = gestures.drag if args.word == "swipe" else getattr(gestures, args.word)
    try:
        asked = word(places, pipeline.denoiser.config.seq_len, args.rate, **words)
    except ValueError as error:
        raise UserError(f"{args.word}: {error}") from error
    generators = [seeded_generator(Stream.SAMPLES, args.seed, index) for index in range(len(places))]
    batches = [slice(first, first + args.batch_size) for first in range(0, len(places), args.batch_size)]
    performed = [
        gestures.perform(pipeline, asked.rows(batch.start, batch.stop), args.num_inference_steps, generators[batch])
        for batch in batches
    ]
    actions = np.concatenate(performed)
    _write(args, actions, f"{len(actions)} of {args.word}")


def plan(argv: list[str], prog: str | None) -> None:
    """Plan actions that make a cost small."""
    parser = model_parser(prog, plan.__doc__)
    add = parser.add_argument
    takes = "; ".join(f"{name} takes {', '.join(f'--{word}' for word in words)}" for name, words in PARAMETERS.items())
    add("--cost", choices=PARAMETERS, required=True, help=takes)
    for name in ("target", "begin", "end", "center"):
        add(f"--{name}", type=_place, metavar="X,Y", help="a place, shares of the screen")
    for name in ("targets", "points"):
        add(f"--{name}", type=_place, nargs="+", metavar="X,Y", help="places: two targets, or two and more points on the way")
    add("--window", type=int, nargs=2, metavar=("FIRST", "LAST"), help="steps within which to press")
    for name in ("first", "last", "duration"):
        add(f"--{name}", type=int, help="of the press, in steps")
    add("--radius", type=float, help="of the disc to go round, in screens")
    add_output(parser)
    add("--num_candidates", type=int, default=4, help="drafts, of which the best is the plan")
    add("--num_inference_steps", type=int, default=10, help="DDIM steps of a draft")
    add("--guidance_scale", type=float, default=0.0, help="weight of the cost's gradient; 3e4 goes round discs")
    add("--no_inpaint", action="store_true", help="leave it to guidance and search what the task fixes")
    add("--search_rounds", type=int, default=0, help="how often the best drafts are noised and denoised again")
    add("--refine_steps", type=int, default=0, help="steps of L-BFGS on the best draft, up to 20")
    args = parser.parse_args(argv)
    check_at_least(args, 1, "num_candidates", "num_inference_steps")
    check_at_least(args, 0, "search_rounds", "refine_steps")
    if args.refine_steps > 20:
        raise UserError(f"--refine_steps is {args.refine_steps}; give at most 20")
    if not 0 <= args.guidance_scale < np.inf:
        raise UserError(f"--guidance_scale is {args.guidance_scale:g}; give a number from 0 up")
    if args.radius is not None and not 0 < args.radius < np.inf:
        raise UserError(f"--radius is {args.radius:g}; give shares of the screen, above 0")
    if args.cost == "timing" and (args.guidance_scale or args.refine_steps):
        raise UserError("--cost timing has no gradient; leave --guidance_scale and --refine_steps out, or add --search_rounds")
    values = _parameters(args)
    check_outputs(args)
    pipeline = load_pipeline(args.model, args.device)
    check_steps(args, pipeline, "num_inference_steps")
    _check_times(args, pipeline.denoiser.config.seq_len)
    import torch

    from action_ddim.planning import costs, planner

    cost: Any = costs.COSTS[args.cost](**values)
    effort = ("num_candidates", "num_inference_steps", "guidance_scale", "search_rounds", "refine_steps")
    words = {name: getattr(args, name) for name in effort}
    try:
        planned = planner.plan(
            pipeline, cost, inpaint=not args.no_inpaint, generator=torch.Generator().manual_seed(args.seed), **words
        )
    except ValueError as error:
        raise UserError(f"plan: {error}") from error
    done = "done" if bool(cost.success(torch.as_tensor(planned.actions)).all()) else "not done within the tolerance"
    print(
        f"cost {planned.costs[0]:.2g}, {done}; {planned.cost_evaluations} evaluations of the cost,"
        f" {planned.gradient_evaluations} of its gradient, {planned.denoiser_calls} of the denoiser,"
        f" {1000 * planned.seconds:.0f} ms"
    )
    _write(args, planned.actions, "plan")


def _write(args: argparse.Namespace, actions: np.ndarray, what: str) -> None:
    from action_ddim.evaluation import plots
    from action_ddim.evaluation.evaluate import NUM_SHEET

    write_actions(args.out, (actions.shape[0] * actions.shape[1], NUM_CHANNELS), [actions], keep=0)
    print(f"{what}: {args.out}")
    write_plot(args.plot, lambda: plots.plot_samples(actions[:NUM_SHEET]))


def _place(word: str) -> tuple[float, float]:
    """Read a place, `0.3,0.7`."""
    try:
        x, y = (float(part) for part in word.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word} is no place; give two shares of the screen, such as 0.3,0.7") from None
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise argparse.ArgumentTypeError(f"{word} lies outside the screen; give shares of it, 0 to 1")
    return x, y


def _parameters(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the cost is made of, and hold the flags against it."""
    asked = PARAMETERS[args.cost]
    for name in sorted({name for names in PARAMETERS.values() for name in names}):
        given = getattr(args, name) is not None
        if given != (name in asked):
            remedy = "leave it out" if given else "add it"
            raise UserError(f"--{name} is {'not ' if given else ''}part of --cost {args.cost}; {remedy}")
    for name, least in (("targets", 2), ("points", 2)):
        if name in asked and (len(getattr(args, name)) < least or (name == "targets" and len(args.targets) > 2)):
            raise UserError(f"--{name} are {len(getattr(args, name))}; give {'two' if name == 'targets' else 'two or more'}")
    return {name: getattr(args, name) for name in asked}


def _check_times(args: argparse.Namespace, seq_len: int) -> None:
    """Hold the steps that are named against those of an action."""
    if args.window is not None and not 0 <= args.window[0] <= args.window[1] < seq_len:
        raise UserError(
            f"--window is {args.window[0]} {args.window[1]}; give two steps of 0 to {seq_len - 1}, the earlier first"
        )
    if args.first is not None and not 0 <= args.first <= args.last < seq_len:
        raise UserError(
            f"--first {args.first} and --last {args.last} must be steps of 0 to {seq_len - 1}, the earlier the first of them"
        )
    if args.duration is not None and not 2 <= args.duration <= seq_len:
        raise UserError(f"--duration is {args.duration}; give 2 to {seq_len} steps, the length of an action")
