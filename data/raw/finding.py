"""Find a dataset's raw scans below a folder that the user names."""

from pathlib import Path

from data.custom_spec import DATASET_JSON
from data.datasets import DATASETS
from data.raw.custom import find_custom
from data.raw.raw_scans import RawDataset
from util.errors import UserError

_CUSTOM_INNER_FOLDERS = ("imagestr", "labelstr", "imagests")


def find_raw(name: str, raw: Path) -> RawDataset:
    """Find the scans of a download, or of a custom dataset.

    Args:
        name: of a named dataset; any other name means a custom one.
        raw: the folder, at any level above the files, or one of the download's inner folders, such as `img`.

    Returns:
        The scans, none of them read yet, and the problems found so far.

    Raises:
        UserError: the dataset is synthetic, `raw` is not a folder or holds no scan in the expected form, or
            `dataset.json` is missing or invalid.
    """
    dataset = DATASETS.get(name)
    if dataset is None:
        folder = _existing_folder(raw, is_custom=True)
        return find_custom(_strip_inner_folders(folder, _CUSTOM_INNER_FOLDERS), name)
    if dataset.find_scans is None:
        raise UserError(f"dataset={name}: is synthetic and has no raw scans; choose another dataset")
    folder = _strip_inner_folders(_existing_folder(raw, is_custom=False), dataset.inner_folders)
    return dataset.find_scans(folder, dataset.spec, dataset.preparation)


def _existing_folder(raw: Path, *, is_custom: bool) -> Path:
    if is_custom and raw.name == DATASET_JSON and raw.is_file():
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
