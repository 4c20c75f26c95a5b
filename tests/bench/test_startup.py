import pytest

from bench.startup import import_costs

REPORT = """\
import time: self [us] | cumulative | imported package
import time:       100 |        100 |   numpy.core
import time:       200 |        300 | numpy
import time:      1000 |       1000 |     torch._dynamo.utils
import time:      3000 |       4000 |   torch.nn
a line that a program printed
"""


def test_import_costs_are_added_up_by_package_the_compiler_apart():
    expected = {"numpy": 3e-4, "torch._dynamo": 1e-3, "torch": 3e-3}
    assert import_costs(REPORT) == pytest.approx(expected)
