"""An interrupted preparation leaves nothing half written, and the next call resumes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data.contact_sheet import draw_contact_sheet
from data.custom_spec import read_dataset_json
from data.data_settings import PrepareConfig
from data.layout import DatasetLayout
from data.prepare import summary
from data.prepare.dataset import prepare_dataset
from tests.data.preparations import write_plain_sheet
from tests.data.raw.raw_sets import write_custom_numbered
from util.io import files
from util.io.image_io import read_volume, write_volume

ROOT = Path(__file__).resolve().parents[3]
N_SCANS = 4


def config_of(workspace, *, num_workers=1):
    return PrepareConfig(
        dataset="Hips", raw=str(workspace / "raw"), data_dir=str(workspace / "Hips"), num_workers=num_workers
    )


@pytest.fixture(name="raw", scope="module")
def _raw(tmp_path_factory):
    """A download of two states, `old` and `new`, in which images and labels differ."""
    folder = tmp_path_factory.mktemp("raw")
    for state, shift in (("old", 0), ("new", 3)):
        for scan in write_custom_numbered(folder / state, n_scans=N_SCANS):
            for path, volume in ((*scan.image_files, scan.image), (*scan.label_files, scan.label_map)):
                write_volume(path, np.roll(volume, shift, axis=2), scan.geometry)
    return folder


@pytest.fixture(name="drawn_contact_sheets", scope="module", autouse=True)
def _drawn_contact_sheets():
    """Draw what other processes draw, as their files are compared with those of this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "draw_contact_sheet", draw_contact_sheet)
        yield


@pytest.fixture(name="expected", scope="module")
def _expected(raw, drawn_contact_sheets, tmp_path_factory):
    """What unbroken runs make of both states."""
    result = {}
    for state in ("old", "new"):
        workspace = tmp_path_factory.mktemp(state)
        shutil.copytree(raw / state, workspace / "raw")
        prepare_dataset(config_of(workspace), progress=False)
        result[state] = workspace
    return result


def layout_of(workspace):
    spec = read_dataset_json(workspace / "raw/dataset.json").spec
    return DatasetLayout(spec, workspace / "Hips", workspace / "Hips", spec.supervoxel_min_vox)


def voxels_of(workspace):
    """All volumes of a prepared folder: bytes of the voxels and geometry, by file name.

    Hidden files are no volumes: a killed process may have left them half written.
    """
    paths = sorted((workspace / "Hips").rglob("[!.]*.nii.gz"))
    read = {path.name: read_volume(path) for path in paths}
    return {
        name: (str(voxels.dtype), voxels.tobytes(), geometry) for name, (voxels, geometry) in read.items()
    }


def names_of(workspace):
    return sorted(str(path.relative_to(workspace)) for path in (workspace / "Hips").rglob("*"))


def assert_pairs_belong_together(workspace, expected):
    """Every image that is there has the label of the same state, and both are whole."""
    layout, result = layout_of(workspace), voxels_of(workspace)
    present = layout.scan_ids() if layout.volumes_dir.is_dir() else []
    for scan_id in present:
        pair = [result.get(f"{kind}_{scan_id}.nii.gz") for kind in ("image", "label")]
        states = [
            [voxels[f"{kind}_{scan_id}.nii.gz"] for kind in ("image", "label")]
            for voxels in expected.values()
        ]
        assert pair in states


def assert_same_end(workspace, unbroken):
    assert names_of(workspace) == names_of(unbroken)
    assert voxels_of(workspace) == voxels_of(unbroken)
    for name in ("fingerprint.json", "contact_sheet.png", "cases.json", "dataset.json"):
        assert (workspace / "Hips" / name).read_bytes() == (unbroken / "Hips" / name).read_bytes()


def interrupt_at(monkeypatch, position):
    """Raise KeyboardInterrupt in place of the `position`th renaming; return those that were done."""
    done = []
    rename = os.replace

    def replace(source, target):
        if len(done) == position:
            raise KeyboardInterrupt
        done.append(Path(target).name)
        rename(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    return done


def test_cut_off_before_any_renaming_nothing_is_mixed_and_the_next_call_resumes(
    raw, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr(summary, "draw_contact_sheet", write_plain_sheet)
    voxels = {state: voxels_of(workspace) for state, workspace in expected.items()}
    start, workspace = tmp_path / "start", tmp_path / "place"
    shutil.copytree(expected["old"], workspace)
    prepare_dataset(config_of(workspace), progress=False)  # records name the folder of the raw files
    workspace.rename(start)
    position, cut_off = 0, True
    while cut_off:
        shutil.rmtree(workspace, ignore_errors=True)
        shutil.copytree(start, workspace)
        for kind in ("image", "label"):
            shutil.copy(raw / "new" / f"{kind}_5.nii.gz", workspace / "raw" / f"{kind}_5.nii.gz")
        with monkeypatch.context() as patch:
            done = interrupt_at(patch, position)
            try:
                prepare_dataset(config_of(workspace), progress=False)
                cut_off = False
            except KeyboardInterrupt:
                assert len(done) == position
        assert_pairs_belong_together(workspace, voxels)
        assert not [path for path in workspace.rglob("*") if ".tmp" in path.name]
        prepare_dataset(config_of(workspace), progress=False)
        mixed = voxels["old"] | {name: voxels["new"][name] for name in voxels["new"] if "_5.nii" in name}
        assert voxels_of(workspace) == mixed
        assert names_of(workspace) == names_of(expected["old"])
        position += 1
    # Volumes and supervoxels are first renamed within the block that renames them to their own names.
    assert len(done) == 11
    assert [name for name in done if not name.startswith(".")] == [
        "scan_5.record.json",
        "label_5.nii.gz",
        "image_5.nii.gz",
        "superpix-MIDDLE_5.record.json",
        "superpix-MIDDLE_5.nii.gz",
        "fingerprint.json",
        "contact_sheet.png",
        "summary.record.json",
    ]


def start(workspace, *, num_workers=2, **keywords):
    words = [
        "dataset=Hips",
        f"raw={workspace}/raw",
        f"data_dir={workspace}/Hips",
        f"num_workers={num_workers}",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "data.prepare", *words],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **keywords,
    )


def test_killed_at_any_moment_and_called_again_it_ends_as_if_never_killed(raw, expected, tmp_path):
    voxels = {state: voxels_of(workspace) for state, workspace in expected.items()}
    shutil.copytree(expected["old"], tmp_path, dirs_exist_ok=True)
    shutil.copytree(raw / "new", tmp_path / "raw", dirs_exist_ok=True)
    draw, n_killed = random.Random(2025), 0
    for num_workers, max_seconds in ((1, 0.3), (2, 1.0), (2, 2.0), (1, 0.5)):
        job = start(tmp_path, num_workers=num_workers)
        for line in job.stdout:  # the start of Python is not worth killing
            if "4 scans ->" in line:
                break
        time.sleep(draw.uniform(max_seconds / 2, max_seconds))
        job.kill()
        job.communicate()
        n_killed += job.returncode == -signal.SIGKILL
        assert_pairs_belong_together(tmp_path, voxels)
    assert n_killed >= 1  # on a fast machine the later ones may come to their end
    prepare_dataset(config_of(tmp_path), progress=False)
    assert_same_end(tmp_path, expected["new"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_scans_in_work_finish_and_ends_with_its_code(raw, expected, tmp_path, number, code):
    shutil.copytree(raw / "new", tmp_path / "raw")
    job = start(tmp_path, start_new_session=True)
    while job.poll() is None and not list(tmp_path.glob("Hips/*/scan_*.record.json")):
        time.sleep(0.01)
    os.killpg(job.pid, number) if number == signal.SIGINT else os.kill(job.pid, number)
    _, err = job.communicate(timeout=60)
    assert (job.returncode, err) == (code, f"stopped by {signal.Signals(number).name}\n")
    assert not [path for path in tmp_path.rglob("*") if ".tmp" in path.name]
    assert_pairs_belong_together(tmp_path, {"new": voxels_of(expected["new"])})
    prepare_dataset(config_of(tmp_path), progress=False)
    assert_same_end(tmp_path, expected["new"])
