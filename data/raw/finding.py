"""Find a dataset's raw scans below a folder that the user names."""

from pathlib import Path

from data.datasets import DATASETS
from data.own_spec import DATASET_JSON
from data.raw.own import find_own
from data.raw.raw_scans import RawDataset
from util.errors import UserError

_OWN_INNER_FOLDERS = ("imagestr", "labelstr", "imagests")


def find_raw(name: str, raw: Path) -> RawDataset:
    """Find the scans of a download, or of own data.

    Args:
        name: of a named dataset; any other name means own data.
        raw: the folder, at any level above the files, or one of the download's inner folders, such as `img`.

    Returns:
        The scans, none of them read yet, and the problems found so far.

    Raises:
        UserError: the dataset is synthetic, `raw` is not a folder or holds no scan in the expected form, or
            `dataset.json` is missing or invalid.
    """
    dataset = DATASETS.get(name)
    if dataset is None:
        return find_own(_strip_inner_folders(_existing_folder(raw, is_own=True), _OWN_INNER_FOLDERS), name)
    if dataset.find_scans is None:
        raise UserError(f"dataset={name}: is synthetic and has no raw scans; choose another dataset")
    folder = _strip_inner_folders(_existing_folder(raw, is_own=False), dataset.inner_folders)
    return dataset.find_scans(folder, dataset.spec, dataset.preparation)


def _existing_folder(raw: Path, *, is_own: bool) -> Path:
    if is_own and raw.name == DATASET_JSON and raw.is_file():
        return raw.absolute().parent
    if not raw.is_dir():
        kind = "a file" if raw.exists() else "nothing"
        raise UserError(
            f"raw={raw}: must be a folder (or a .zip file), got {kind}; pass the download's folder"
        )
    return raw.absolute()


def _strip_inner_folders(folder: Path, inner_folders: tuple[str, ...]) -> Path:
    while folder.name.lower() in inner_folders:
        folder = folder.parent
    return folder
