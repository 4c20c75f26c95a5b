"""Every configuration key is read somewhere: a key that nothing reads promises what it does not do."""

import ast
import inspect
from pathlib import Path

import pytest

import config_ssl_upload
from config_ssl_upload import Config, ModelConfig
from data.data_settings import PathConfig
from dataloaders.episode_settings import AugmentationRanges
from models.factory import build_network
from models.few_shot_seg import FewShotSeg
from util.config.settings import Whole, describe_keys, group, key
from util.engine.optimisation import OptimConfig

ROOT = Path(config_ssl_upload.__file__).parent
# What a whole group of keys is handed to as keyword arguments.
HANDED_OVER = {"model": (build_network, FewShotSeg), "task": (AugmentationRanges,)}


class KeyReads(ast.NodeVisitor):
    """Collect the dotted keys that a function reads of a configuration, through its local names too.

    A read is an attribute access on the configuration, on one of its groups, or on a local name bound to
    either; `self.config` and `self._config` are the configuration, too. `getattr(config.path, name)` stands
    for any group in `path`, written `path.*`.
    """

    def __init__(self, config_name):
        self._names, self._attributes = {config_name: ""}, (f"self.{config_name}", f"self._{config_name}")
        self.reads = set()

    def resolve(self, node):
        """Return the key that an expression stands for, "" for the configuration itself, None for others."""
        if isinstance(node, ast.Name):
            return self._names.get(node.id)
        if ast.unparse(node) in self._attributes:
            return ""
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            owner, name = self.resolve(node.value), node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
            owner, name = self.resolve(node.args[0]), "*"
        else:
            return None
        return None if owner is None else f"{owner}.{name}".removeprefix(".")

    def visit_Assign(self, node):
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = zip(target.elts, node.value.elts, strict=True)
            for name, value in pairs:
                if isinstance(name, ast.Name) and (result := self.resolve(value)) is not None:
                    self._names[name.id] = result
        self.generic_visit(node)

    def generic_visit(self, node):
        if result := self.resolve(node):
            self.reads.add(result)
        super().generic_visit(node)


def keys_read(source, config_name="config"):
    """Return the keys that any function of a source reads of a configuration of this name."""
    reads = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            visitor = KeyReads(config_name)
            visitor.visit(node)
            reads |= visitor.reads
    return reads


def all_reads():
    """Return the keys read by entry points and workflows, who alone see it, and by its own properties."""
    reads = keys_read(_part_of("script/workflows/experiment.py", "find_former_run"))  # the others only check
    workflows = set((ROOT / "script/workflows").glob("*.py")) - {ROOT / "script/workflows/experiment.py"}
    for path in (ROOT / "training.py", ROOT / "validation.py", *workflows):
        reads |= keys_read(path.read_text(encoding="utf-8"))
    of_optim = (ROOT / "util/engine/optimisation.py", ROOT / "util/engine/training_state.py")
    for path in of_optim:
        reads |= {f"optim.{name}" for name in keys_read(path.read_text(encoding="utf-8"), "optim")}
    reads |= {
        f"phantom.{name}" for name in keys_read(_part_of("data/data_settings.py", "PhantomConfig"), "self")
    }
    reads |= {
        f"task.{name}"
        for name in keys_read(_part_of("dataloaders/episode_settings.py", "TaskConfig"), "self")
    }
    guide = (ROOT / "script/workflows/refinement.py").read_text(encoding="utf-8")
    reads |= {f"evaluation.{name}" for name in keys_read(guide, "options")}
    for path in (ROOT / "dataloaders/augmentation.py", ROOT / "dataloaders/warps.py"):
        ranges = keys_read(path.read_text(encoding="utf-8"), "ranges")
        reads |= {f"adaptation.augmentation.{name}" for name in ranges}
    return reads | keys_read(_part_of("config_ssl_upload.py", "Config"), "self")


def _part_of(path, name):
    """Return the source of a class or function of a file."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return ast.unparse(next(node for node in tree.body if getattr(node, "name", "") == name))


def stands_for(read, name):
    """Tell whether a read is one of this key; a mere choice among keys by name, `x.*`, is none of any."""
    parts, key_parts = read.split("."), name.split(".")
    fits = len(parts) == len(key_parts) and all(a in ("*", b) for a, b in zip(parts, key_parts, strict=True))
    return fits and parts[-1] != "*"


def unread_keys(of, reads):
    """List the keys of a configuration that none of `reads` reads."""
    unread = []
    for name, *_ in describe_keys(of):
        group_name, _, own_name = name.rpartition(".")
        is_read = any(stands_for(read, name) for read in reads)
        if group_name in HANDED_OVER and group_name in reads:
            takers = HANDED_OVER[group_name]
            is_read |= any(own_name in inspect.signature(taker).parameters for taker in takers)
        if not is_read:
            unread.append(name)
    return unread


def test_every_key_is_read():
    assert unread_keys(Config, all_reads()) == []


def test_the_keys_that_are_looked_for_are_all_there_are():
    names = [name for name, *_ in describe_keys(Config)]
    assert {"dataset", "optim.lr", "model.prior", "path.SABS.supervoxel_dir"} <= set(names)
    assert len(names) > 50


class _UnreadOptim(OptimConfig):
    nesterov: Whole = key(1, "read nowhere")


class _UnreadModel(ModelConfig):
    n_heads: Whole = key(1, "no parameter of the network")


class _UnreadDatasetPaths(PathConfig.model_fields["CMR"].annotation):
    mirror: Whole = key(1, "read nowhere")


class _UnreadPath(PathConfig):
    CMR: _UnreadDatasetPaths = group(_UnreadDatasetPaths)


class _WithUnreadKeys(Config):
    optim: _UnreadOptim = group(_UnreadOptim)
    model: _UnreadModel = group(_UnreadModel)
    path: _UnreadPath = group(_UnreadPath)
    patience: Whole = key(1, "read nowhere")


def test_a_key_that_nothing_reads_would_be_found():
    assert unread_keys(_WithUnreadKeys, all_reads()) == [
        "optim.nesterov",
        "model.n_heads",
        "path.CMR.mirror",
        "patience",
    ]


@pytest.mark.parametrize(
    ("read", "name", "fits"),
    [
        ("optim.lr", "optim.lr", True),
        ("path.*.data_dir", "path.CMR.data_dir", True),
        ("path.*", "path.log_dir", False),
        ("*", "seed", False),
        ("optim", "optim.lr", False),
        ("lr", "optim.lr", False),
        ("path.*.data_dir", "path.log_dir", False),
    ],
)
def test_a_read_stands_for_its_own_key_alone(read, name, fits):
    assert stands_for(read, name) is fits


def test_a_key_that_is_only_assigned_or_belongs_to_something_else_is_not_read():
    source = """
def f(config, other):
    task, lr = config.task, other.lr
    paths = getattr(config.path, config.dataset)
    other.seed = 1
    return task.gamma, paths.data_dir, config.optim.momentum, other.optim.weight_decay
"""
    assert keys_read(source) == {
        "task",
        "task.gamma",
        "path",
        "path.*",
        "path.*.data_dir",
        "dataset",
        "optim",
        "optim.momentum",
    }
