"""Raw sets that are damaged in one way each, with what must be reported about them in one line.

`python -m tests.data.raw.damages` prints them as a table, each with its error message.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data.raw.finding import find_raw
from data.raw.unpacking import unpack
from tests.data.raw.damaged_archives import ARCHIVES
from tests.data.raw.damaged_dicom import DICOM, PNG
from tests.data.raw.damaged_json import JSON
from tests.data.raw.damaged_nifti import NIFTI
from tests.data.raw.raw_sets import WRITERS, write_custom_numbered
from util.errors import UserError


@dataclass(frozen=True)
class Damage:
    """A good set and what is done to it.

    Attributes:
        name: what is wrong, for people.
        dataset: the set that is written; "Hips" is a custom dataset in nnU-Net's folders, "numbered" the
            other form.
        damage: takes the set's folder and what was written there, and does the damage; may return another raw
            path than the folder.
        words: a pattern that the one line must match.
    """

    name: str
    dataset: str
    damage: Callable
    words: str

    def make(self, folder: Path) -> tuple[str, Path]:
        """Write the damaged set; return its dataset's name and its raw path."""
        writer = write_custom_numbered if self.dataset == "numbered" else WRITERS[self.dataset]
        written = writer(folder, n_scans=2)
        raw = self.damage(folder, written)
        return "Hips" if self.dataset == "numbered" else self.dataset, raw or folder


DAMAGES = tuple(Damage(*row) for row in (*DICOM, *PNG, *NIFTI, *JSON, *ARCHIVES))


def reported_lines(dataset: str, raw: Path) -> list[str]:
    """List all lines that are reported about a raw set, whichever step finds them."""
    try:
        if raw.is_file():
            raw = unpack(raw, raw.parent / "unpacked")
        result = find_raw(dataset, raw)
    except UserError as error:
        return str(error).splitlines()
    return [*result.problems, *(line for scan in result.scans for line in result.inspect(scan)[1])]


def table() -> str:
    """Write every damage and its error message as a Markdown table; paths without the temporary folder."""
    rows = ["| # | set | damage | message |", "|---|---|---|---|"]
    for number, damage in enumerate(DAMAGES, start=1):
        with tempfile.TemporaryDirectory() as folder:
            lines = reported_lines(*damage.make(Path(folder) / "raw"))
            output = " / ".join(lines).replace(f"{Path(folder)}/", "").replace("|", "\\|")
            rows.append(f"| {number} | {damage.dataset} | {damage.name} | {output} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
