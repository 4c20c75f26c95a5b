"""Find a dataset's raw scans below a folder that a person points at."""

from pathlib import Path

from data.raw.chaos import find_chaos
from data.raw.mscmrseg import find_mscmrseg
from data.raw.own import find_own
from data.raw.raw_scans import FoundDataset
from data.raw.synapse import find_synapse
from data.specs import DATASETS
from util.errors import UserError

_FINDERS = {"CHAOST2": find_chaos, "SABS": find_synapse, "CMR": find_mscmrseg}
# Folders inside of a dataset's form: who points at one of them means what it belongs to.
_INNER = {
    "CHAOST2": {"dicom_anon", "ground", "t2spir"},
    "SABS": {"img", "label"},
    "CMR": set(),
}
_OWN_INNER = {"imagestr", "labelstr", "imagests"}


def find_raw(dataset: str, raw: Path) -> FoundDataset:
    """Find the scans of a download, or of own data.

    Args:
        dataset: CHAOST2, SABS or CMR; any other name is given to own data.
        raw: the folder, at any level above the files (or one of the form's inner folders, such as `img`).

    Returns:
        The scans with their problems, of which none is looked into yet.

    Raises:
        UserError: `raw` is no folder, holds no scan of this form, or `dataset.json` is missing or wrong.
    """
    folder = _existing_folder(dataset, Path(raw))
    if dataset in _FINDERS:
        return _FINDERS[dataset](_climb(folder, _INNER[dataset]))
    if dataset in DATASETS:
        raise UserError(f"dataset={dataset}: is made by the program and has no raw scans; choose another")
    return find_own(_climb(folder, _OWN_INNER), dataset)


def _existing_folder(dataset: str, raw: Path) -> Path:
    if raw.name == "dataset.json" and raw.is_file() and dataset not in _FINDERS:
        return raw.absolute().parent
    if not raw.is_dir():
        kind = "a file" if raw.exists() else "nothing"
        raise UserError(
            f"raw={raw}: must be a folder (or a .zip file), got {kind}; give the download's folder"
        )
    return raw.absolute()


def _climb(folder: Path, inner: set[str]) -> Path:
    while folder.name.lower() in inner:
        folder = folder.parent
    return folder
