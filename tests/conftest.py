"""A tiny phantom, networks small enough to train within a test, and PyTorch's switches."""

import fcntl
import gc
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from util.engine import training_reporter

TINY = (
    "dataset=PHANTOM",
    "recipe=published",
    "phantom.n_scans=10",
    "phantom.image_size_px=48",
    "n_sv=60",
    "model.encoder=resnet18",
    "model.feature_width=8",
    "n_steps=3",
    "print_interval=2",
    "save_snapshot_every=2",
    "num_workers=0",
    "device=cpu",
)
REAL_PLOT_CURVES = training_reporter.plot_curves


# Nothing that imports create is garbage; looking for it takes a fifth of the time of collecting the tests.
gc.disable()

# The modules that take longest: first, so that no core is idle at the end.
LONG_MODULES = (
    "test_joint_training",
    "test_end_to_end",
    "test_environment",
    "test_interruptions",
    "test_protocols",
    "test_surroundings",
    "test_resumed_training",
    "test_training_validation",
    "test_run",
    "test_compilation",
    "test_registration",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let long modules come first; the others keep their order."""
    rank = {name: position for position, name in enumerate(LONG_MODULES)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def pytest_collection_finish() -> None:
    """Look for garbage from now on, but not among what the imports created."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _no_curves() -> Iterator[None]:
    """Save the second that matplotlib needs for the curves of each training of this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_reporter, "plot_curves", lambda *_args, **_options: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_worker() -> Iterator[None]:
    """Start worker processes, whose imports take seconds, in tests that set their number alone."""
    from data import processes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "usable_cores", lambda: 1)
        yield


@pytest.fixture(scope="session", autouse=True)
def _plain_contact_sheets() -> Iterator[None]:
    """Save half of the time of each preparation of this process, which the drawing of its sheet takes."""
    from data.prepare import summary
    from tests.data.preparations import write_plain_sheet

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "draw_contact_sheet", write_plain_sheet)
        yield


@pytest.fixture(scope="session")
def phantom_dir(tmp_path_factory) -> Path:
    """The tiny phantom and its supervoxels, which tests may add files to but not change.

    Made by one of pytest-xdist's workers and copied by all.
    """
    folder = tmp_path_factory.mktemp("phantom") / "data"
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    with (shared / "phantom.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "phantom.made").exists():
            _make_phantom(shared / "tiny_phantom")
            (shared / "phantom.made").touch()
    shutil.copytree(shared / "tiny_phantom", folder)
    return folder


def _make_phantom(folder: Path) -> None:
    from data.datasets import find_spec  # late: most tests do without
    from data.layout import DatasetLayout
    from data.phantom.scans import PhantomSettings, make_phantom
    from data.supervoxels.generation import generate_supervoxels

    make_phantom(folder, PhantomSettings(image_size_px=48), n_scans=10, progress=False)
    layout = DatasetLayout(find_spec("PHANTOM"), folder, folder, 60)
    generate_supervoxels(layout, n_workers=1, progress=False)


@pytest.fixture(scope="session")
def overrides_for(phantom_dir) -> Callable[[Path], list[str]]:
    """Give overrides that train and evaluate a tiny network, with runs under a folder."""
    return lambda log_dir: [
        "with",
        *TINY,
        f"path.PHANTOM.data_dir={phantom_dir}",
        f"path.log_dir={log_dir}",
    ]


@pytest.fixture(scope="module")
def narrow_encoder() -> Iterator[None]:
    """Make trainings of this process three times as fast: ResNet-18s have an eighth of their width."""
    from models.encoder import BACKBONES  # late: most tests do without torch
    from tests.narrow_resnet import NarrowResNet

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "resnet18", NarrowResNet)
        yield


@pytest.fixture(scope="module")
def trained_runs(narrow_encoder, overrides_for, tmp_path_factory):
    """The runs of two tiny trainings, and the words that made them."""
    from tests.bad_inputs import train_in  # late: most tests do without the network

    yield from train_in(tmp_path_factory.mktemp("trained"), overrides_for)


@pytest.fixture
def workspace(trained_runs, phantom_dir, tmp_path):
    """A copy of the phantom and of these runs, which a test may damage."""
    from tests.bad_inputs import make_workspace  # late, as above

    yield from make_workspace(tmp_path / "workspace", phantom_dir, *trained_runs)


@pytest.fixture
def tiny_overrides(overrides_for, tmp_path) -> list[str]:
    """Give such overrides with runs under this test's own folder."""
    return overrides_for(tmp_path / "runs")


@pytest.fixture
def switches_restored() -> Iterator[None]:
    """Leave PyTorch's switches as they were."""
    import torch  # late: most tests do without

    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    yield
    cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before
    torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
