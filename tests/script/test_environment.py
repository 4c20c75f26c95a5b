"""environment.sh creates, resumes and repairs .venv, and never modifies an active environment."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from script.environment_state import unmet_requirements

REPO_ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*REPO_ROOT.glob("script/*.sh"), *REPO_ROOT.glob("script/*.sbatch"), REPO_ROOT / ".ci/run"])


def write_stub_python(path: Path, *, version: str, has_ensurepip: bool) -> str:
    """Write an executable that answers as a candidate for creating `.venv`, and notes that it shall."""
    is_old = int(tuple(map(int, version.split("."))) < (3, 10))
    path.write_text(
        f'#!/bin/sh\ncase "$2" in\n*print*) echo {version} ;;\n'
        f"*ensurepip*) exit {int(not has_ensurepip)} ;;\n*sys.exit*) exit {is_old} ;;\n"
        f'venv) echo "$@" > "$0.called"; echo "Error: stub"; exit 1 ;;\nesac\n'
    )
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_parses(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("name", ["script/train.sh", "script/evaluate.sh", "script/test.sh", ".ci/run"])
def test_every_command_is_executable(name):
    assert (REPO_ROOT / name).stat().st_mode & stat.S_IXUSR


def test_requirements_are_met_missing_too_old_or_not_for_this_platform(tmp_path):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(
        "# a comment\n\n--prefer-binary\npytest>=1\npytest>=9999  # newer than any\nno-such-package\n"
        'no-such-package; python_version < "3"\n'
    )
    assert unmet_requirements(requirements) == ["pytest>=9999", "no-such-package"]


def test_an_active_environment_that_has_everything_is_used_as_it_is(clone):
    result = clone.run("script/train.sh", "eval_fold=0")
    assert result.returncode == 0
    assert result.stderr == f"environment: using the active environment {sys.prefix}\n"
    assert not (clone.root / ".venv").exists()


def test_a_conda_environment_counts_as_active_but_its_base_does_not(venv_clone):
    (venv_clone.root / "requirements.txt").write_text("")
    conda = {"CONDA_PREFIX": sys.prefix, "CONDA_DEFAULT_ENV": "seg"}
    assert f"using the active environment {sys.prefix}" in venv_clone.run("script/train.sh", **conda).stderr
    base = conda | {"CONDA_DEFAULT_ENV": "base"}
    assert "active environment" not in venv_clone.run("script/train.sh", **base).stderr


def test_an_active_environment_that_lacks_something_is_left_alone_for_venv(venv_clone):
    result = venv_clone.run("script/train.sh", VIRTUAL_ENV=sys.prefix)
    assert f"the active environment {sys.prefix} lacks stubpackage==1.0; using .venv" in result.stderr
    assert result.returncode == 0


def test_the_first_call_creates_venv_installs_builds_and_trains(installed):
    clone, first = installed
    assert first.returncode == 0, first.stderr
    for step in ("creating .venv", "installing requirements.txt", "building the Cython extension", "ready"):
        assert step in first.stderr
    assert clone.n_builds() == 1
    assert len(clone.calls()) == 1


def test_the_second_call_installs_and_prints_nothing_and_starts_at_once(venv_clone):
    (venv_clone.root / "build/pip.log").unlink()
    start_s = time.perf_counter()
    result = venv_clone.run("script/train.sh", "eval_fold=0")
    assert time.perf_counter() - start_s < 3
    assert result.returncode == 0
    assert result.stderr == ""
    assert not (venv_clone.root / "build/pip.log").exists()
    assert venv_clone.n_builds() == 1


def test_changed_requirements_are_installed(venv_clone):
    (venv_clone.root / "requirements.txt").write_text("stubpackage>=2\n")
    result = venv_clone.run("script/train.sh")
    assert result.returncode == 0
    assert "creating .venv" not in result.stderr
    assert list(venv_clone.root.glob(".venv/lib/*/site-packages/stubpackage-2.0.dist-info"))


def test_an_interrupted_install_resumes_in_the_same_venv(venv_clone):
    (venv_clone.root / ".venv/requirements.stamp").unlink()
    for path in venv_clone.root.glob(".venv/lib/*/site-packages/stubpackage-1.0.dist-info"):
        shutil.rmtree(path)
    (venv_clone.root / ".venv/kept").touch()
    result = venv_clone.run("script/train.sh")
    assert result.returncode == 0
    assert "installing requirements.txt" in result.stderr
    assert (venv_clone.root / ".venv/kept").exists()


def test_a_package_that_went_missing_is_installed_again(venv_clone):
    for path in venv_clone.root.glob(".venv/lib/*/site-packages/stubpackage-1.0.dist-info"):
        shutil.rmtree(path)
    assert "installing requirements.txt" in venv_clone.run("script/train.sh").stderr
    assert list(venv_clone.root.glob(".venv/lib/*/site-packages/stubpackage-1.0.dist-info"))


@pytest.mark.parametrize("damage", ["python is gone", "pip is gone"])
def test_a_broken_venv_is_created_again(venv_clone, tmp_path, damage):
    if damage == "python is gone":
        (venv_clone.root / ".venv/bin/python").unlink()
        (venv_clone.root / ".venv/bin/python").symlink_to("/nowhere/python3")
    else:  # as when the interpreter moved on to another version, which has a separate site-packages
        for path in venv_clone.root.glob(".venv/lib/*/site-packages"):
            path.rename(path.with_name("elsewhere"))
    stub = write_stub_python(tmp_path / "python3.11", version="3.11", has_ensurepip=True)
    result = venv_clone.run("script/train.sh", PYTHON=stub)
    assert Path(f"{stub}.called").read_text() == f"-m venv --clear {venv_clone.root / '.venv'}\n"
    assert result.returncode == 2
    assert result.stderr.endswith("/.venv: could not be created: Error: stub\n")


def test_a_python_that_is_too_old_is_named_with_a_hint(venv_clone, tmp_path):
    shutil.rmtree(venv_clone.root / ".venv")
    old = write_stub_python(tmp_path / "python3.8", version="3.8", has_ensurepip=True)
    result = venv_clone.run("script/train.sh", PYTHON=old)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        f"error: creating .venv needs Python 3.10 or newer with venv, but {old} is Python 3.8; "
        "install it, or set PYTHON=/path/to/python3.12"
    )
    missing = venv_clone.run("script/train.sh", PYTHON="/nowhere/python3")
    assert (missing.returncode, "/nowhere/python3 does not run" in missing.stderr) == (2, True)
    assert not venv_clone.calls()


def test_a_python_without_ensurepip_is_named_with_a_hint(venv_clone, tmp_path):
    shutil.rmtree(venv_clone.root / ".venv")
    bare = write_stub_python(tmp_path / "python3.11", version="3.11", has_ensurepip=False)
    result = venv_clone.run("script/train.sh", PYTHON=bare)
    assert result.returncode == 2
    assert f"{bare} (Python 3.11) has no venv package" in result.stderr
    assert "sudo apt install python3.11-venv" in result.stderr


def test_an_index_that_cannot_be_reached_is_one_clear_line_and_no_stamp(venv_clone):
    (venv_clone.root / "requirements.txt").write_text("stubpackage>=3\n")
    unreachable = {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}
    result = venv_clone.run("script/train.sh", **unreachable)
    assert result.returncode == 2
    assert "error: the package index is unreachable" in result.stderr.splitlines()[-1]
    assert not (venv_clone.root / ".venv/requirements.stamp").exists()
    assert not venv_clone.calls()


def test_a_requirement_that_does_not_exist_is_reported_with_pips_error(venv_clone):
    (venv_clone.root / "requirements.txt").write_text("stubpackage>=3\n")
    result = venv_clone.run("script/train.sh")
    assert result.returncode == 2
    assert "No matching distribution found for stubpackage>=3" in result.stderr.splitlines()[-1]


def test_the_extension_is_built_again_only_when_it_must_be(clone):
    assert clone.n_builds() == 1
    clone.run("script/train.sh")
    assert clone.n_builds() == 1
    (clone.root / "data/supervoxels/felzenszwalb_3d_cy.pyx").write_text("# version 2\n")
    clone.run("script/train.sh")
    assert clone.n_builds() == 2
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    (clone.root / f"data/supervoxels/felzenszwalb_3d_cy{suffix}").unlink()
    clone.run("script/train.sh")
    assert clone.n_builds() == 3


def test_the_extension_of_another_python_does_not_count(clone):
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    built = clone.root / f"data/supervoxels/felzenszwalb_3d_cy{suffix}"
    built.rename(built.with_name("felzenszwalb_3d_cy.cpython-27-other.so"))
    clone.run("script/train.sh")
    assert clone.n_builds() == 2


@pytest.mark.parametrize(
    ("stub_error", "expected"),
    [
        (
            "error: no C compiler: install one",
            "error: the Cython extension could not be built: no C compiler",
        ),
        ("fatal error: Python.h: No such file or directory", "error: Python's C headers are missing"),
        (
            "SyntaxError: mistake in the sources",
            "error: the Cython extension could not be built: SyntaxError",
        ),
    ],
)
def test_a_failed_build_names_what_is_missing(clone, stub_error, expected):
    setup = clone.root / "data/supervoxels/setup.py"
    setup.write_text(f"import sys\nsys.exit({stub_error!r})\n")
    result = clone.run("script/train.sh")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(expected)
    assert not clone.calls()


def test_ctrl_c_during_preparation_is_reported_and_the_next_call_resumes(clone):
    setup = clone.root / "data/supervoxels/setup.py"
    stub = setup.read_text()
    setup.write_text("import time\ntime.sleep(30)\n")
    job = clone.start("script/train.sh")
    for line in job.stderr:
        if "building" in line:
            break
    time.sleep(0.2)  # the build starts after its announcement
    os.killpg(job.pid, signal.SIGINT)
    assert job.communicate(timeout=60)[1] == "environment: interrupted; run the command again to resume\n"
    assert job.returncode == 130
    setup.write_text(stub + "# changed\n")
    assert clone.run("script/train.sh").returncode == 0
    assert clone.n_builds() == 2


@pytest.mark.skipif(shutil.which("flock") is None, reason="jobs wait for one another by flock")
def test_two_jobs_that_start_at_once_install_and_build_once(venv_clone):
    setup = venv_clone.root / "data/supervoxels/setup.py"
    setup.write_text("import time\ntime.sleep(1)\n" + setup.read_text())
    jobs = [venv_clone.start("script/train.sh") for _ in range(2)]
    outputs = [job.communicate(timeout=120)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    assert venv_clone.n_builds() == 2  # one more than before
    assert sum("waiting for another job" in output for output in outputs) == 1
