"""A module is imported at the first call of its functions, or at once where another name is needed."""

import subprocess
import sys

import pytest

from config_ssl_upload import REPOSITORY
from models.deferred_import import deferred_import


@pytest.fixture(name="slow")
def _slow(tmp_path, monkeypatch):
    """A module of a package that is not imported yet; return its name."""
    (tmp_path / "slow_package").mkdir()
    (tmp_path / "slow_package/__init__.py").touch()
    (tmp_path / "slow_package/part.py").write_text("LIMIT = 7\n\n\ndef double(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "slow_package.part"
    for name in ("slow_package", "slow_package.part"):
        sys.modules.pop(name, None)


def test_a_call_imports_the_module_and_gives_its_result(slow):
    with deferred_import(slow, "double"):
        from slow_package.part import double
    assert not {"slow_package", slow} & set(sys.modules)
    assert double(4) == 8
    assert double is not sys.modules[slow].double
    assert sys.modules[slow].LIMIT == 7


def test_another_name_is_that_of_the_module(slow):
    with deferred_import(slow, "double"):
        from slow_package.part import LIMIT, double

        assert LIMIT == 7
        assert sys.modules[slow].double is not double
        from slow_package.part import double as real
    assert sys.modules[slow].double is real
    assert double(1) == real(1) == 2


def test_an_unknown_name_and_an_error_leave_nothing_behind(slow):
    with pytest.raises(ImportError), deferred_import(slow, "double"):
        from slow_package.part import triple  # noqa: F401
    with pytest.raises(ZeroDivisionError), deferred_import(slow + "_too", "double"):
        raise ZeroDivisionError
    assert slow + "_too" not in sys.modules


def test_an_imported_module_is_used_as_it_is(slow):
    import slow_package.part as real

    with deferred_import(slow, "double"):
        from slow_package.part import double
    assert double is real.double


def test_commands_start_without_pytorchs_compiler_and_scipys_statistics():
    program = (
        "import sys, torch, validation\n"
        "from util.parallel.hardware import choose_kernels\n"
        "choose_kernels(deterministic=True, precision='fp32')\n"
        "assert torch.are_deterministic_algorithms_enabled()\n"
        "assert torch.is_deterministic_algorithms_warn_only_enabled()\n"
        "print({'torch._dynamo', 'torch._inductor', 'scipy.stats'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "set()\n", "")
