"""A run that is killed with SIGKILL at random moments loses nothing; `benchmarks/kill.py` says how that is judged."""

import json

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_ten_kills_lose_nothing(python):
    result = python(ROOT / "benchmarks" / "kill.py", "--kills", 10, "--seed", 3)
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["kills"] == 10
    assert report["kills while writing"] > 0
    assert report["runs finished"] > 0
    assert report["updates lost, at most"] <= 2
    assert {report[name] for name in ("faults", "attempts that failed", "runs that differ")} == {0}
