"""What the benchmarks work out themselves; that they run at all is for those who run them."""

import importlib.util

import pytest
import torch

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def scaling():
    spec = importlib.util.spec_from_file_location("scaling", ROOT / "benchmarks" / "scaling.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_exponent_is_that_of_a_power_law(scaling):
    def rows(size, time):
        return [scaling.Row(size, value, 8, time(value), 0.0) for value in (1, 2, 4, 8, 16)]

    assert scaling.exponents(rows("length", lambda n: 3 * n**2)) == pytest.approx((2, 2))
    assert scaling.exponents(rows("patch_size", lambda n: 5 / n)) == pytest.approx((-1, -1))
    whole, upper = scaling.exponents(rows("batch_size", lambda n: 10 + n))  # what does not grow hides what does
    assert whole < upper < 1


def test_fastest_round_is_taken_row_by_row(scaling):
    rounds = [[scaling.Row("length", 250, 8, time, 0.0) for time in times] for times in ((3.0, 5.0), (4.0, 2.0))]
    assert [row.step_ms for row in scaling.fastest(rounds)] == [3.0, 2.0]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here")
def test_gpu_benchmark_says_where_there_is_none(python):
    result = python(ROOT / "benchmarks" / "gpu.py")
    assert (result.returncode, result.stdout) == (0, "no GPU\n")
