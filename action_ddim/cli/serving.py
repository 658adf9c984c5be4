"""The verbs for models and actions put to use: `replay`, `studio`. Exported models are `export`'s, in model."""

import argparse
import ipaddress
import socket
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from action_ddim.actions import DEFAULT_SEQ_LEN, MAX_RATE, MAX_SEQ_LEN, MIN_SEQ_LEN
from action_ddim.atomic import written_whole
from action_ddim.cli.inputs import OneLineParser, check_actions, check_at_least, screen_size
from action_ddim.cli.outputs import check_output, check_writable
from action_ddim.data.action_file import open_action_file
from action_ddim.data.writer import read_info
from action_ddim.errors import UserError
from action_ddim.pretrained import DEVICES
from action_ddim.recordings.convert import ImportConfig
from action_ddim.serving.replay import FORMATS, events, render
from augmentation.gestures import MAX_SCREEN

MIN_RATE = 1e-3  # steps a second


def replay(argv: list[str], prog: str | None) -> None:
    """Write actions as timed pointer events in pixels, or as a script that sends them."""
    args = _replay_parser(prog).parse_args(argv)
    if not args.file.is_file():
        raise UserError(f"FILE {args.file} is not a file; name one of actions, .npy")
    if args.out:
        check_output("--out", args.out, args.overwrite)
        if args.out.resolve() == args.file.resolve():
            raise UserError(f"--out {args.out} is FILE; name another file")
    if not 1 <= min(args.screen) <= max(args.screen) <= MAX_SCREEN:
        raise UserError(f"--screen is {args.screen[0]}x{args.screen[1]}; give 1x1 to {MAX_SCREEN}x{MAX_SCREEN}")
    if args.num is not None and args.num < 1:
        raise UserError(f"--num is {args.num}; give more than 0")
    _check_rate(args.rate)
    check_at_least(args, MIN_SEQ_LEN, "seq_len")
    if not 0 <= args.pause < float("inf"):
        raise UserError(f"--pause is {args.pause:g}; give seconds, 0 or more")
    said = _description(args.file.parent)
    rate = args.rate or said.get("rate_hz")
    if rate is None:
        raise UserError(
            f"FILE {args.file} has no dataset.json beside it that says rate_hz; give the steps a second, such as --rate 100"
        )
    actions = _read(args.file, args.seq_len, said.get("sequence_length"), args.num)
    width, height = args.screen
    text = render(events(actions, width, height, rate, args.pause), args.format, width, height)
    if args.out is None:
        sys.stdout.write(text)
        return
    with written_whole("--out", args.out) as file:
        file.write(text.encode())
    print(f"{len(actions)} sequences of {actions.shape[1] / rate:g} s are in {args.out}")


def _check_rate(rate: float | None) -> None:
    if rate is not None and not MIN_RATE <= rate <= MAX_RATE:
        raise UserError(f"--rate is {rate:g}; give {MIN_RATE:g} to {MAX_RATE:g} steps a second")


def _replay_parser(prog: str | None) -> argparse.ArgumentParser:
    parser = OneLineParser(prog=prog, description=replay.__doc__)
    add = parser.add_argument
    add("file", metavar="FILE", type=Path, help="actions, .npy, (rows, 3) or (N, L, 3)")
    add("--screen", type=screen_size, metavar="WxH", default="1920x1080", help="size of the screen in pixels")
    add(
        "--rate",
        type=float,
        help="steps a second; by default rate_hz of a dataset.json beside the file",
    )
    help_text = f"steps of a sequence in a file of (rows, 3); by default as dataset.json says, else {DEFAULT_SEQ_LEN}"
    add("--seq_len", type=int, help=help_text)
    add("--format", choices=FORMATS, default="jsonl", help="an object a line, or a Python script for that library")
    add("--num", type=int, help="sequences from the first on; by default all")
    add("--pause", type=float, default=0.5, help="seconds between two sequences")
    add("--out", type=Path, help="file to write; by default the standard output")
    add("--overwrite", action="store_true", help="replace the file if it exists")
    return parser


def _description(folder: Path) -> dict[str, float]:
    """Return what the dataset.json of a folder says of length and rate."""
    info = folder / "dataset.json"
    said = read_info(info)
    found = {name: said[name] for name in ("sequence_length", "rate_hz") if said.get(name) is not None}
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise UserError(f"{info} says {name} {value!r}, not a number above 0; mend it")
    if found.get("sequence_length", MIN_SEQ_LEN) not in range(MIN_SEQ_LEN, MAX_SEQ_LEN + 1):
        raise UserError(f"{info} says sequence_length {found['sequence_length']!r}, not {MIN_SEQ_LEN} steps or more; mend it")
    return found


def _read(path: Path, asked: int | None, said: float | None, num: int | None) -> np.ndarray:
    """Return the first `num` sequences `(N, L, 3)` of a file, all of them by default.

    Their length is that which is asked for, else the one that the data says; where neither does, it is told what is taken.
    """
    try:
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError, AttributeError):
        shape = ()  # open_action_file says what is wrong
    own = shape[1] if len(shape) == 3 else None
    seq_len = int(asked or said or own or DEFAULT_SEQ_LEN)
    remedy = 'give their length by --seq_len, or in a dataset.json beside it, {"sequence_length": ...}'
    if asked:
        remedy = "give another --seq_len, or none"
    recording = open_action_file(path, seq_len, remedy=remedy)
    if not (asked or said or own):
        taken = f"{recording.num_sequences} sequences of {seq_len} steps"
        print(f"FILE {path} does not say how long a sequence is; taken for {taken} (--seq_len)", file=sys.stderr)
    with recording.open() as file:
        actions = recording.read(file, 0, min(recording.num_sequences, num or recording.num_sequences))
    check_actions(path, actions, batch_size=256, flag="FILE")
    return actions


def studio(argv: list[str], prog: str | None) -> None:
    """Open a local page that records actions, replays the model's, fills in and lets guess which are real."""
    args = _studio_parser(prog).parse_args(argv)
    missing = [package for package in ("starlette", "uvicorn") if not find_spec(package)]
    if missing:
        raise UserError(f'the studio needs {missing[0]}, which is missing: pip install "action-ddim[studio]"')
    _check_rate(args.rate)
    check_at_least(args, MIN_SEQ_LEN, "seq_len")
    check_at_least(args, 1, "num_inference_steps")
    host = _as_browsers_write(args.host)
    if not 0 <= args.port < 2**16:
        raise UserError(f"--port is {args.port}; give 1 to {2**16 - 1}, or 0 for any that is free")
    from action_ddim.serving.studio.server import serve
    from action_ddim.serving.studio.studio import Studio

    check_writable("--out", args.out)
    artist = None
    if args.model:
        from action_ddim.serving.studio.drawing import Artist  # and with it torch

        artist = Artist(args.model, args.device, args.num_inference_steps)
    data = said = None
    if args.data_dir:
        from action_ddim.data.dataset import open_for_model  # and with it torch

        takes = (artist.seq_len, f"--model {args.model}") if artist else (args.seq_len, "--seq_len")
        data = open_for_model("--data_dir", str(args.data_dir), *takes)
        said = _description(args.data_dir).get("rate_hz")
        if artist and artist.rate_hz and said and artist.rate_hz != said:
            raise UserError(
                f"--data_dir {args.data_dir} has {said:g} steps a second, --model {args.model} {artist.rate_hz:g};"
                " give windows of the model's rate, which action-ddim import makes"
            )
    rate = args.rate or (artist and artist.rate_hz) or said or ImportConfig.rate
    try:
        made = Studio(args.out, artist, data, rate, args.seq_len)
    except OSError as error:
        raise UserError(f"--out {args.out} cannot be written: {error.strerror or error}") from error

    def opened(address: str) -> None:
        print(f"open {address}\nCtrl-C closes the studio.", flush=True)
        if artist:
            artist.start()

    with suppress(KeyboardInterrupt):  # which is how a studio is closed
        serve(made, host, args.port, opened)


def _as_browsers_write(host: str) -> str:
    """Return an address in the form that a browser asks for it by, and a name as it is."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0][4][0]
    except (OSError, UnicodeError):
        return host
    if ipaddress.ip_address(found).is_unspecified:
        raise UserError(f"--host is {host}, no address to open; name one of this machine, as others call it")
    return str(found)


def _studio_parser(prog: str | None) -> argparse.ArgumentParser:
    parser = OneLineParser(prog=prog, description=studio.__doc__)
    add = parser.add_argument
    add("--out", type=Path, default=Path("studio"), help="folder of what is recorded: sessions/, and windows/ made of them")
    add("--model", help="pipeline folder or Hub id; without one, the studio records only")
    add("--data_dir", type=Path, help="windows to watch and guess, instead of those recorded here")
    add(
        "--rate",
        type=float,
        help=f"steps a second; by default the model's, else those of --data_dir, else {ImportConfig.rate:g}",
    )
    add("--seq_len", type=int, default=DEFAULT_SEQ_LEN, help="steps of a window, where no model says it")
    add("--num_inference_steps", type=int, default=50, help="DDIM steps of a drawing")
    add("--device", choices=DEVICES, default="auto", help="auto takes a CUDA GPU where there is one, else the CPU")
    add("--host", default="127.0.0.1", help="address to listen on: this machine only, unless another is named")
    add("--port", type=int, default=8765, help="0 takes any that is free")
    return parser
