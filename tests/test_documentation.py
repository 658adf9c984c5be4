"""What is written by hand beside the code says what the code says: the table of flags, and `make help`."""

import dataclasses
import re
import subprocess

import pytest

from action_ddim import TrainConfig

from .conftest import ROOT

NOTHING = {"off", "none", "all", "what the data says", "what Accelerate says", "required"}  # how a default of None is worded
FIELDS = {field.name: field.default for field in dataclasses.fields(TrainConfig)}


def documented_defaults() -> dict[str, str]:
    """Return the default of each flag that the tables of docs/training.md have a row of."""
    flags = re.search(r"^## Flags\n(.*?)^## ", (ROOT / "docs" / "training.md").read_text(), re.DOTALL | re.MULTILINE)[1]
    rows = re.findall(r"^\| `--(\w+)` \| (.*?) \| ", flags, re.MULTILINE)
    assert len(rows) == flags.count("| `--") == len(dict(rows))
    return dict(rows)


def test_every_flag_has_a_row_and_every_row_a_flag():
    assert set(documented_defaults()) == set(FIELDS) | {"config"}  # which the parser alone has


@pytest.mark.parametrize("name", FIELDS)
def test_row_has_the_default(name):
    default, said = FIELDS[name], documented_defaults()[name]
    if default is None:
        assert said in NOTHING
    elif isinstance(default, bool):
        assert said == ("on" if default else "off")
    elif isinstance(default, int | float):
        assert float(said) == default
    else:
        assert said == f"`{default if isinstance(default, str) else ' '.join(default)}`"


def test_make_help_lists_what_make_does():
    targets = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())
    words = ["make", "--no-print-directory", "help"]  # the tests may be run by make, which says then where it goes
    listed = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert {line.split()[0] for line in listed.splitlines()} == targets
