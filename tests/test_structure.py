"""The code base keeps to its plan: who may import whom, how long a file may be, what is documented."""

import ast
import sys
from pathlib import Path

import pytest

import config_ssl_upload

ROOT = Path(config_ssl_upload.__file__).parent
ENTRY_POINTS = ("config_ssl_upload", "training", "validation")
# The rooms, each with those of ours that it may import beside itself; data flows one way.
ROOMS = {
    "util": set(),
    "data": {"util"},
    "dataloaders": {"data", "util"},
    "models": set(),
}
MODELS_LIBRARIES = {"torch", "torchvision"}
LONGEST_FILE, LONGEST_ENTRY_POINT = 300, 350
SUMMARY_LIMIT = 80

MODULES = [path.relative_to(ROOT) for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
EXTENSIONS = [path.relative_to(ROOT) for path in sorted((ROOT / "data").rglob("*.p[yx][xd]"))]
ENTRIES = [path for name in ENTRY_POINTS if (ROOT / (path := Path(f"{name}.py"))).is_file()]
# Others may have written into these folders; only text that belongs to the project counts.
TEXTS = [
    path.relative_to(ROOT)
    for folder in (*ROOMS, "script", "bench", "tests", ".ci")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in {".py", ".pyx", ".pxd", ".sh"} or path.parent.name == ".ci"
]
SCRIPTS = [path for path in TEXTS if path.suffix == ".py" and path.parts[0] in {"script", "bench"}]


def _read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def imported_modules(source):
    """List the full names of all modules that a source imports, inside functions too; `.` marks relative."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append("." * node.level + (node.module or ""))
    return names


def forbidden_imports(source, room):
    """List the imports of a source that its room may not have."""
    ours = {*ROOMS, *ENTRY_POINTS, "tests", "script", "bench"}
    allowed = ROOMS[room] | {room}
    packages = {name: name.split(".")[0] for name in imported_modules(source)}
    found = [name for name, package in packages.items() if package in ours and package not in allowed]
    if room == "models":
        libraries = MODELS_LIBRARIES | sys.stdlib_module_names | ours
        found += [name for name, package in packages.items() if package not in libraries]
    return found + [name for name in packages if name.startswith(".")]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_rooms_import_only_what_they_may(path):
    assert forbidden_imports(_read(path), path.parts[0]) == []


@pytest.mark.parametrize(
    ("room", "source", "found"),
    [
        ("util", "import util.io.files, os, torch", []),
        ("util", "from data.layout import DatasetLayout", ["data.layout"]),
        ("util", "def f():\n    import training", ["training"]),
        ("data", "from util.io.files import write_text\nimport data.specs, numpy", []),
        ("data", "import dataloaders.splits", ["dataloaders.splits"]),
        ("dataloaders", "import data.specs, util.errors, cv2", []),
        ("dataloaders", "import models", ["models"]),
        ("models", "import torch.nn, torchvision, math\nfrom models.mining import x", []),
        ("models", "import numpy as np\nfrom util.errors import UserError", ["util.errors", "numpy"]),
        ("models", "from .mining import x", [".mining", ".mining"]),
    ],
)
def test_a_forbidden_import_would_be_found(room, source, found):
    assert forbidden_imports(source, room) == found


def star_imports(source):
    """List the modules that a source imports everything from."""
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    return [node.module for node in imports if any(alias.name == "*" for alias in node.names)]


def test_no_file_imports_everything_of_another():
    assert star_imports("from os.path import *\nfrom os import path") == ["os.path"]
    scripts = [path for path in TEXTS if path.suffix == ".py"]
    assert {str(path): found for path in [*scripts, *ENTRIES] if (found := star_imports(_read(path)))} == {}


def test_no_file_is_too_long():
    limits = dict.fromkeys([*MODULES, *EXTENSIONS], LONGEST_FILE) | dict.fromkeys(
        ENTRIES, LONGEST_ENTRY_POINT
    )
    lengths = {path: len(_read(path).splitlines()) for path in limits}
    assert {str(path): length for path, length in lengths.items() if length > limits[path]} == {}
    assert len(lengths) > 30


def public_docstrings(source):
    """List `(name, docstring)` of a source and its public functions and classes, methods included."""
    tree = ast.parse(source)
    found = [("the module", ast.get_docstring(tree))]

    def visit(body, prefix):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                if node.name.startswith("_"):
                    continue
                found.append((prefix + node.name, ast.get_docstring(node)))
                if isinstance(node, ast.ClassDef):
                    visit(node.body, f"{prefix}{node.name}.")

    visit(tree.body, "")
    return found


def undocumented(source):
    """List what is public in a source and has no docstring."""
    return [name for name, docstring in public_docstrings(source) if not docstring]


def badly_begun(source):
    """List what is public in a source and has a docstring that does not begin with one short sentence.

    The first line must be shorter than SUMMARY_LIMIT, end with a full stop and stand alone.
    """
    found = []
    for name, docstring in public_docstrings(source):
        first, *rest = (docstring or "").splitlines() or ["."]
        if len(first) >= SUMMARY_LIMIT or not first.endswith(".") or (rest and rest[0]):
            found.append(name)
    return found


@pytest.mark.parametrize("path", [*MODULES, *ENTRIES], ids=str)
def test_everything_public_is_documented(path):
    assert undocumented(_read(path)) == []


def test_a_missing_docstring_would_be_found():
    source = '''
class Public:
    """Text."""
    def method(self): ...
    def _private(self): ...
def function(): ...
def _private():
    def inner(): ...
class _Private:
    def method(self): ...
'''
    assert undocumented(source) == ["the module", "Public.method", "function"]


@pytest.mark.parametrize("path", [*MODULES, *ENTRIES, *SCRIPTS], ids=str)
def test_every_docstring_begins_with_one_short_sentence(path):
    assert badly_begun(_read(path)) == []


def test_a_badly_begun_docstring_would_be_found():
    longest = "x" * (SUMMARY_LIMIT - 2) + "."
    source = f'''
"""x{longest}"""
class Long:
    """x{longest}

    More.
    """
    def fits(self):
        """{longest}

        More, {longest} {longest}
        """
    def runs_on(self):
        """Begin a sentence
        and end it here.
        """
    def not_alone(self):
        """Begin.
        Go on.
        """
    def _private(self):
        """x{longest}"""
def endless():
    """No full stop"""
def bare(): ...
'''
    assert badly_begun(source) == ["the module", "Long", "Long.runs_on", "Long.not_alone", "endless"]


def test_modules_of_the_network_move_nothing_to_a_device():
    sources = [path for path in MODULES if path.parts[0] == "models"]
    assert len(sources) > 8
    assert [str(path) for path in sources if ".cuda(" in _read(path)] == []


def test_nothing_is_left_to_be_done_later():
    # In pieces, for this file is looked at too.
    words = ["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]
    left = {str(path): word for path in [*TEXTS, *ENTRIES] for word in words if word in _read(path)}
    assert left == {}


@pytest.mark.parametrize("path", [*MODULES, *ENTRIES], ids=str)
def test_no_input_is_checked_by_assert(path):
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(_read(path))))
