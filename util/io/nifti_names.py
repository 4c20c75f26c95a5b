"""Endings of the names of NIfTI files."""

from pathlib import Path

NIFTI_ENDINGS = (".nii.gz", ".nii")


def nifti_ending(path: Path) -> str:
    """Return a file's NIfTI ending in its own case, such as `.NII.GZ`.

    Without one it is empty.
    """
    known = next((ending for ending in NIFTI_ENDINGS if path.name.lower().endswith(ending)), "")
    return path.name[len(path.name) - len(known) :]


def nifti_stem(path: Path) -> str:
    """Return a file's name without its NIfTI ending."""
    return path.name.removesuffix(nifti_ending(path))
