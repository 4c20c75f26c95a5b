"""A stand-in clone: the real scripts around stub entry points, a stub extension and a tiny package index."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO_ROOT = Path(__file__).parents[2]

# Notes its arguments; exits with 7 on the fold of STUB_FAILS; waits to be stopped on the fold of STUB_WAITS.
STUB_ENTRY_POINT = """
import json, os, sys, time
with open("calls.jsonl", "a") as calls:
    calls.write(json.dumps(sys.argv) + "\\n")
if os.environ.get("STUB_FAILS") in sys.argv:
    sys.exit(7)
if os.environ.get("STUB_WAITS") in sys.argv:
    try:
        print("waiting", flush=True)
        time.sleep(30)
    except KeyboardInterrupt:
        sys.exit(9)
"""

STUB_SETUP = """
import sysconfig
from pathlib import Path
folder = Path("data/supervoxels")
(folder / f"felzenszwalb_3d_cy{sysconfig.get_config_var('EXT_SUFFIX')}").write_text("built")
with open("build/builds.txt", "a") as builds:
    builds.write("x")
"""


@dataclass
class Clone:
    """A temporary clone and the environment variables of the user who works in it."""

    root: Path
    variables: dict[str, str]

    def run(self, script, *arguments, cwd=None, **variables):
        """Run a script to its end and return the completed process."""
        return subprocess.run(
            ["bash", str(self.root / script), *arguments],
            cwd=cwd or self.root,
            env=self.variables | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def start(self, script, *arguments, **variables):
        """Start a script in a separate process group."""
        return subprocess.Popen(
            ["bash", str(self.root / script), *arguments],
            cwd=self.root,
            env=self.variables | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def calls(self):
        """List the arguments of every call of a stub entry point."""
        path = self.root / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def n_builds(self):
        """Count how often the extension was built."""
        path = self.root / "build/builds.txt"
        return len(path.read_text()) if path.exists() else 0


def make_clone(root: Path, *, requirements: str) -> None:
    """Write the stand-in clone into a new folder."""
    shutil.copytree(REPO_ROOT / "script", root / "script", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPO_ROOT / ".ci", root / ".ci")
    (root / "requirements.txt").write_text(requirements)
    for name in ("training.py", "validation.py"):
        (root / name).write_text(STUB_ENTRY_POINT)
    extension_dir = root / "data" / "supervoxels"
    extension_dir.mkdir(parents=True)
    (extension_dir / "setup.py").write_text(STUB_SETUP)
    (extension_dir / "felzenszwalb_3d_cy.pyx").write_text("# version 1\n")


def copy_clone(original: Clone, root: Path) -> Clone:
    """Copy a clone, forgetting its calls; pip's thousand files are linked, since nothing changes them."""
    left_out = shutil.ignore_patterns("calls.jsonl", "pip", "setuptools", "pkg_resources")
    shutil.copytree(original.root, root, symlinks=True, ignore=left_out)
    for folder in original.root.glob(".venv/lib/*/site-packages/pip"):
        (root / folder.relative_to(original.root)).symlink_to(folder)
    return Clone(root, original.variables)


def make_wheel(folder: Path, version: str) -> None:
    """Write a wheel of the empty package `stubpackage`."""
    info = f"stubpackage-{version}.dist-info"
    with zipfile.ZipFile(folder / f"stubpackage-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("stubpackage.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: stubpackage\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="session")
def built_clone(tmp_path_factory):
    """A clone used from the virtual environment that runs these tests; its extension is built."""
    root = tmp_path_factory.mktemp("built") / "a clone"
    make_clone(root, requirements="pytest>=1  # has it\n")
    variables = {"PATH": os.environ["PATH"], "HOME": str(root.parent), "VIRTUAL_ENV": sys.prefix}
    clone = Clone(root, variables)
    result = clone.run("script/train.sh", "eval_fold=0")
    assert result.returncode == 0, result.stderr
    return clone


@pytest.fixture
def clone(built_clone, tmp_path):
    """A copy of a clone that is ready in the active environment."""
    return copy_clone(built_clone, tmp_path / "a copied clone")


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """A clone that has made its own `.venv`, and the process that did."""
    folder = tmp_path_factory.mktemp("first_call")
    (folder / "wheels").mkdir()
    make_wheel(folder / "wheels", "1.0")
    make_wheel(folder / "wheels", "2.0")
    make_clone(folder / "clone", requirements="stubpackage==1.0\n")
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHON": sys.executable,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder / "wheels"),
    }
    made = Clone(folder / "clone", variables)
    return made, made.run("script/train.sh", "eval_fold=0")


@pytest.fixture
def venv_clone(installed, tmp_path):
    """A copy of a clone with a `.venv` that is ready."""
    return copy_clone(installed[0], tmp_path / "a moved clone")
