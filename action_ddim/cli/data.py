"""The verb for data: `generate`."""

import argparse

from action_ddim.cli.inputs import OneLineParser, screen_size
from augmentation.gestures import ACTION_TYPES, IDLE_MODES, GestureConfig, write_gestures


def generate(argv: list[str], prog: str | None) -> None:
    """Write synthetic gestures."""
    arguments = vars(_generate_parser(prog).parse_args(argv))
    writing = {name: arguments.pop(name) for name in ("output_dir", "sequences_per_file", "overwrite")}
    config = GestureConfig(**arguments)
    write_gestures(config, **writing)
    print(f"{config.num_sequences} sequences of {config.sequence_length} steps are in {writing['output_dir']}")


def _generate_parser(prog: str | None) -> argparse.ArgumentParser:
    default = GestureConfig()
    parser = OneLineParser(
        prog=prog,
        description="Write synthetic gestures: clicks, swipes, drags and others.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--output_dir", required=True, default=argparse.SUPPRESS, help="folder to write, made if missing")
    add("--num_sequences", type=int, default=default.num_sequences, help="how many to write")
    help_text = "one or several; mixed: 27%% clicks, the rest swipes"
    add("--action_type", nargs="+", choices=ACTION_TYPES, default=default.action_type, help=help_text)
    help_text = "shares of several action types, in any unit; by default all the same"
    add("--weights", nargs="+", type=float, default=argparse.SUPPRESS, help=help_text)
    add("--human", action="store_true", help="as a hand does it: strokes bend, are corrected, and tremble")
    help_text = "size of the screen, to whose pixels places are rounded; by default it has none, and is square"
    add("--screen", type=screen_size, metavar="WxH", default=argparse.SUPPRESS, help=help_text)
    add("--min_delta_t_pct", type=float, default=default.min_delta_t_pct, help="shortest press, fraction of the length")
    add("--max_delta_t_pct", type=float, default=default.max_delta_t_pct, help="longest press, fraction of the length")
    add("--sequence_length", type=int, default=default.sequence_length, help="time steps a sequence")
    add("--sequences_per_file", type=int, default=1000, help="sequences a file")
    add("--seed", type=int, default=default.seed, help="the same seed gives the same sequences")
    add("--idle", choices=IDLE_MODES, default=default.idle, help="outside the press: hold the place, or x = y = 0")
    add("--overwrite", action="store_true", help="replace the data set in the folder")
    return parser
