import pytest

from bench.startup import sum_import_times

REPORT = """\
import time: self [us] | cumulative | imported package
import time:       100 |        100 |   numpy.core
import time:       200 |        300 | numpy
import time:      1000 |       1000 |     torch._dynamo.utils
import time:      3000 |       4000 |   torch.nn
other output
"""


def test_import_times_are_summed_by_package_with_the_compiler_separate():
    expected = {"numpy": 3e-4, "torch._dynamo": 1e-3, "torch": 3e-3}
    assert sum_import_times(REPORT) == pytest.approx(expected)
