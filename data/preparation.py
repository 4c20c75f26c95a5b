"""Make sure that a dataset's prepared volumes are there."""

from data.layout import DatasetLayout
from data.phantom import PhantomSettings, make_phantom


def ensure_volumes(layout: DatasetLayout, *, phantom: PhantomSettings, n_phantom_scans: int) -> list[int]:
    """Return the ids of a dataset's scans, after making PHANTOM's that are missing.

    Raises:
        UserError: the volumes of a real dataset are not there, or PHANTOM's cannot be written.
    """
    if layout.spec.name == "PHANTOM":
        make_phantom(layout.data_dir, phantom, n_scans=n_phantom_scans)
    return layout.scan_ids()
