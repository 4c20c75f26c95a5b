"""A small preparation of three scans, for tests that change its download or its files."""

import numpy as np

from data.data_settings import PrepareConfig
from data.datasets import find_spec
from data.layout import DatasetLayout
from data.prepare.dataset import prepare_dataset
from data.prepare.descriptions import write_descriptions
from data.prepare.volume_preparation import prepare_scans
from data.raw.finding import find_raw
from util.io.files import atomic_write
from util.io.image_io import read_volume, write_volume

IDS = (2, 3, 10)


def config_of(raw, data_dir, **changes):
    values = {"dataset": "CMR", "raw": str(raw), "data_dir": str(data_dir), "num_workers": 1}
    return PrepareConfig(**(values | changes))


def prepare(workspace, **changes):
    prepare_dataset(config_of(workspace / "download", workspace / "CMR", **changes), progress=False)


def prepare_volumes(name, raw, data_dir):
    """Prepare volumes alone, without checks and supervoxels; return the layout."""
    dataset = find_raw(name, raw)
    layout = DatasetLayout(dataset.spec, data_dir, data_dir, dataset.spec.supervoxel_min_vox)
    write_descriptions(dataset, layout)
    prepare_scans(dataset, layout, scans=dataset.scans, n_workers=1, progress=False)
    return layout


def layout_of(workspace):
    return DatasetLayout(find_spec("CMR"), workspace / "CMR", workspace / "CMR", 1000)


def volumes_of(workspace):
    folder = layout_of(workspace).volumes_dir
    return {path.name: path.read_bytes() for path in folder.glob("*.nii.gz")}


def files_of(folder):
    """Every file below a folder with its content, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def times_of(workspace):
    return {path: path.stat().st_mtime_ns for path in (workspace / "CMR").rglob("*")}


def raw_file(workspace, kind, patient):
    folder, ending = {"image": ("c0t2lge", ""), "label": ("c0gt", "_manual")}[kind]
    return workspace / "download" / folder / f"patient{patient}_C0{ending}.nii.gz"


def change_image(workspace, patient):
    image, geometry = read_volume(raw_file(workspace, "image", patient))
    write_volume(raw_file(workspace, "image", patient), image + np.int16(1), geometry)


def write_plain_sheet(layout, path, *, n_workers=None):
    """Stand in for `draw_contact_sheet`, for tests of a preparation's files."""
    with atomic_write(path, suffix=".png") as temporary:
        temporary.write_text(f"{layout.scan_ids()}")
