"""`test.sh` and `.ci/run`: style, imports and tests, and the exit code."""

import os
import shutil
from pathlib import Path

import pytest

IMPORT_CONTRACT = """
[importlinter]
root_packages =
    lower
    upper
[importlinter:contract:layers]
name = Upper imports lower
type = layers
layers =
    upper
    lower
"""


@pytest.fixture
def tested_clone(clone):
    """A clone with two tests, one of them failing, clean style, and a package that may not import another."""
    (clone.root / "test_two.py").write_text(
        "def test_passes():\n    pass\n\n\ndef test_fails():\n    raise ValueError\n"
    )
    for pattern in ("*ing.py", "*tion.py", "script/[cnsu]*_*.py", "script/*/*.py", "data/*/*.py"):
        for path in clone.root.glob(pattern):
            path.write_text("")
    (clone.root / "data/supervoxels/setup.py").write_text(
        "import shutil\nimport sysconfig\n\n"
        'NAME = "data/supervoxels/felzenszwalb_3d_cy" + sysconfig.get_config_var("EXT_SUFFIX")\n'
        'shutil.copyfile("data/supervoxels/felzenszwalb_3d_cy.pyx", NAME)\n'
    )
    (clone.root / "ruff.toml").write_text("line-length = 110\n")
    (clone.root / ".importlinter").write_text(IMPORT_CONTRACT)
    for name in ("lower", "upper"):
        (clone.root / name).mkdir()
        (clone.root / name / "__init__.py").touch()
    clone.variables = clone.variables | {"PYTEST_XDIST_AUTO_NUM_WORKERS": "1"}  # two tests are soon done
    return clone


def test_clean_style_and_passing_tests_succeed_and_arguments_reach_pytest(tested_clone):
    result = tested_clone.run("script/test.sh", "-k", "passes or nothing")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 passed in" in result.stdout  # of two tests


def test_a_failing_test_gives_pytests_exit_code(tested_clone):
    result = tested_clone.run("script/test.sh")
    assert result.returncode == 1
    assert "1 failed, 1 passed" in result.stdout
    assert tested_clone.run("script/test.sh", "-k", "absent").returncode == 5


@pytest.mark.parametrize("text", ["import os\n", "x = ( 1 )\n"], ids=["rule", "format"])
def test_bad_style_fails_although_the_tests_pass_and_run(tested_clone, text):
    (tested_clone.root / "untidy.py").write_text(text)
    result = tested_clone.run("script/test.sh", "-k", "passes")
    assert result.returncode == 1
    assert "1 passed" in result.stdout
    assert "ruff found problems" in result.stderr


def test_a_forbidden_import_fails_although_the_tests_pass_and_run(tested_clone):
    (tested_clone.root / "lower/__init__.py").write_text("import upper  # noqa: F401\n")
    result = tested_clone.run("script/test.sh", "-k", "passes")
    assert result.returncode == 1
    assert "1 passed" in result.stdout
    assert "Upper imports lower BROKEN" in result.stdout
    assert result.stderr.endswith("forbidden import, see above; the contracts are in pyproject.toml\n")


@pytest.fixture
def programs(tested_clone, tmp_path):
    """A folder that comes first in the clone's PATH; its `apt-get` notes its calls and fails."""
    folder = tmp_path / "programs"
    folder.mkdir()
    write_program(folder / "apt-get", 'echo "$@" >> "$0.calls"; exit 100')
    tested_clone.variables |= {"PATH": f"{folder}{os.pathsep}{tested_clone.variables['PATH']}"}
    return folder


def write_program(path, command):
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)


def test_ci_runs_the_same_from_any_folder(tested_clone, programs, tmp_path):
    write_program(programs / "chromium", "exit 1")
    result = tested_clone.run(".ci/run", cwd=tmp_path)
    assert result.returncode == 1
    assert "1 failed, 1 passed" in result.stdout
    assert not (programs / "apt-get.calls").exists()
    assert "no Chromium" not in result.stderr


def test_ci_continues_without_a_browser_and_reports_it(tested_clone, programs):
    for name in ("bash", "sh", "timeout", "dirname", "grep", "flock"):
        (programs / name).symlink_to(shutil.which(name))
    tested_clone.variables |= {"PATH": str(programs)}  # no browser
    (tested_clone.root / "test_two.py").write_text(
        'import pytest\n\n\n@pytest.mark.skip(reason="no browser")\ndef test_skipped():\n    pass\n'
    )
    result = tested_clone.run(".ci/run")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "ci: no Chromium, and none could be installed" in result.stderr
    assert "no browser" in result.stdout
    if os.geteuid() == 0 and "ID=debian" in Path("/etc/os-release").read_text().splitlines():
        assert (programs / "apt-get.calls").read_text() == "update -qq\n"
