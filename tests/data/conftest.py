"""A download of three scans and its finished preparation."""

import shutil

import pytest

from data.prepare.dataset import prepare_dataset
from tests.data.preparations import config_of
from tests.data.raw.raw_sets import WRITERS


@pytest.fixture(name="raw_cmr", scope="session")
def _raw_cmr(tmp_path_factory):
    """The download of three scans; copied by tests that change it."""
    folder = tmp_path_factory.mktemp("raw") / "download"
    WRITERS["CMR"](folder, n_scans=3)
    return folder


@pytest.fixture(name="prepared_cmr", scope="session")
def _prepared_cmr(raw_cmr, tmp_path_factory):
    """A finished preparation of it."""
    data_dir = tmp_path_factory.mktemp("prepared") / "CMR"
    prepare_dataset(config_of(raw_cmr, data_dir), progress=False)
    return data_dir


@pytest.fixture(name="workspace")
def _prepared_workspace(raw_cmr, prepared_cmr, tmp_path):
    """A download and its finished preparation, to be changed by a test."""
    shutil.copytree(raw_cmr, tmp_path / "download")
    shutil.copytree(prepared_cmr, tmp_path / "CMR")
    for path in tmp_path.glob("CMR/*/*.record.json"):  # which name the folder of the raw files
        path.write_text(path.read_text().replace(str(raw_cmr), str(tmp_path / "download")))
    return tmp_path
