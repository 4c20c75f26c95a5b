"""A wheel holds everything, and its console commands run in any folder."""

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import zipfile
from importlib.metadata import Distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read pyproject.toml")

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("util", "data", "dataloaders", "models", "script")
ENDINGS = {".py", ".pyx", ".pxd", ".j2", ".css", ".js", ".html"}
EXTENSION = "data/supervoxels/felzenszwalb_3d_cy"


def _project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _run(*command, cwd, **environment):
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def _imports(path):
    """Yield the top-level names that a module imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def test_every_imported_library_is_declared():
    lists = [ROOT / "requirements.txt", *(ROOT / "script/requirements").glob("*.txt")]
    lines = [line.split("#")[0] for path in lists for line in path.read_text(encoding="utf-8").splitlines()]
    declared = {
        canonicalize_name(Requirement(line).name)
        for line in lines
        if line.strip() and not line.startswith("-r")
    }
    paths = [*ROOT.glob("*.py"), *(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))]
    imported = {name for path in paths for name in _imports(path)}
    libraries = {
        canonicalize_name(distribution)
        for name, distributions in packages_distributions().items()
        if name in imported
        for distribution in distributions
    }
    # packaging and pip come with sacred and every environment; DICOM-SEG and server bring their own parts.
    assert libraries - declared <= {"packaging", "pip", "pydicom", "starlette", "hcpmnet"}
    assert {"docopt-ng", "torch", "scikit-image"} <= libraries


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the sources, with the extension that is built already."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    files = [path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.suffix in ENDINGS]
    files += [*ROOT.glob("*.py"), *(ROOT / "script" / "requirements").iterdir()]
    for path in [*files, *(ROOT / name for name in ("pyproject.toml", "README.md", "requirements.txt"))]:
        target = source / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    # The name that setuptools gives; calling it fails once a test has imported the standard distutils.
    build_lib = f"build/lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    [extension] = ROOT.glob(f"{EXTENSION}.*.so")
    built = source / build_lib / extension.relative_to(ROOT)
    built.parent.mkdir(parents=True)
    shutil.copyfile(extension, built)
    later = time.time() + 3600  # than the C file: it is not compiled again, as test_setup.py does
    os.utime(built, (later, later))
    options = ["--no-build-isolation", "--no-deps", "--disable-pip-version-check", "--quiet"]
    _run("-m", "pip", "wheel", *options, "--wheel-dir", dist, source, cwd=source)
    [path] = dist.glob("*.whl")
    return path, source


def test_a_wheel_holds_all_modules_templates_and_the_extension_and_nothing_else(wheel):
    path, source = wheel
    with zipfile.ZipFile(path) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    [extension] = [name for name in names if name.endswith(".so")]
    assert extension.startswith(f"{EXTENSION}.")
    left_out = {".pyx", ".pxd"}
    included = {file for file in source.rglob("*") if file.suffix in ENDINGS - left_out}
    expected = {file.relative_to(source).as_posix() for file in included} - {"setup.py"}
    built = {name for name in expected if name.startswith("build/")}
    assert names - {extension} == expected - built
    assert "util/evaluation/report_page/predictions.html.j2" in names


def test_a_wheel_requires_what_an_installed_package_imports_and_no_tools(wheel, tmp_path):
    path, _ = wheel
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path)
    [info] = tmp_path.glob("*.dist-info")
    requirements = [Requirement(line) for line in Distribution.at(info).requires]
    extras = {"dicom": {"highdicom"}, "server": {"fastapi", "uvicorn", "python-multipart"}}
    for extra, names in {"": set(), **extras}.items():
        needed = {r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": extra})}
        assert {"torch", "sacred", "pydantic", *names} <= needed
        assert needed.isdisjoint({"pytest", "ruff", "Cython", "httpx"})


def test_console_commands_explain_themselves_in_any_folder(wheel, tmp_path):
    path, _ = wheel
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "site")
    [info] = (tmp_path / "site").glob("*.dist-info")
    commands = {entry_point.name: entry_point.value for entry_point in Distribution.at(info).entry_points}
    assert commands == _project()["scripts"]
    (tmp_path / "work/data").mkdir(parents=True)  # a folder of scans, which hides no package
    for name in ("hcpmnet-train", "hcpmnet-prepare", "hcpmnet-predict", "hcpmnet-serve"):
        module, function = commands[name].split(":")
        code = f"import sys; from {module} import {function} as main; sys.exit(main())"
        out = _run("-c", code, "--help", cwd=tmp_path / "work", PYTHONPATH=str(tmp_path / "site"))
        assert out.startswith(f"usage: {name} ")
    code = f"import {EXTENSION.replace('/', '.')} as extension; print(extension.__file__)"
    actual = _run("-c", code, cwd=tmp_path / "work", PYTHONPATH=str(tmp_path / "site"))
    assert Path(actual.strip()).is_relative_to(tmp_path / "site")


STUB = "import os, sys; print(sys.argv[0], os.getcwd(), *sys.argv[1:])"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train", "training.py with dataset=CMR eval_fold=1 n_steps=2"),
        ("evaluate", "validation.py with dataset=CMR eval_fold=1 n_steps=2"),
        ("compare", "validation.py compare dataset=CMR eval_fold=1 n_steps=2"),
    ],
)
def test_commands_run_the_installed_programs_in_the_current_folder(tmp_path, command, words):
    site, work = tmp_path / "site", tmp_path / "work"
    shutil.copytree(ROOT / "script", site / "script", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("training.py", "validation.py"):
        (site / name).write_text(STUB)
    work.mkdir()
    code = f"from script.console import {command}; {command}()"
    out = _run("-c", code, *words.split()[-3:], cwd=work, PYTHONPATH=str(site))
    program, *arguments = words.split()
    assert out.splitlines()[-1].split() == [str(site / program), str(work), *arguments]
