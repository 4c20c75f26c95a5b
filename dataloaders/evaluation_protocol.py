"""The evaluation protocol as an object that describes itself."""

from dataclasses import asdict, dataclass
from typing import Any

from dataloaders.splits import FOLDS
from util.evaluation import N_FOLDS

# What a protocol changes of the configuration's defaults.
PROTOCOLS: dict[str, dict[str, Any]] = {
    "published": {},
    "whole_volume": {"folds": "disjoint", "support_scans": "outside", "evaluation": {"chunks": False}},
}


@dataclass(frozen=True)
class Protocol:
    """What is segmented with which support, and counted how.

    Attributes:
        name: of the set of defaults, `published` or `whole_volume`.
        changes: what was set otherwise, such as `supp_idx=1`.
        folds: see `fold_scan_ids`.
        support_scans: see `list_candidates`.
        supp_idx: see `choose_support_position`.
        n_part: chunks of a query, and support slices.
        chunks, all_slices, every_support: see `plan_jobs`.
    """

    name: str
    changes: tuple[str, ...]
    folds: str
    support_scans: str
    supp_idx: int
    n_part: int
    chunks: bool
    all_slices: bool
    every_support: bool

    @property
    def title(self) -> str:
        """The name, with what was changed."""
        return self.name if not self.changes else f"{self.name}, changed to {' '.join(self.changes)}"

    def describe(self) -> list[str]:
        """Describe the protocol in three lines."""
        return [
            f"protocol: {self.title}; {N_FOLDS} {self.folds} folds ({FOLDS[self.folds]})",
            f"slices scored: {self._describe_slices()}; queries without an organ are left out of its mean",
            f"support: {self._describe_support()}",
        ]

    def as_record(self) -> dict[str, Any]:
        """Return name, parts and lines as plain values."""
        return {**asdict(self), "changes": list(self.changes), "description": self.describe()}

    def _describe_slices(self) -> str:
        parts = []
        if self.chunks:
            parts.append(f"chunks (those that hold the organ, known from the truth, in {self.n_part} chunks)")
        if self.all_slices:
            parts.append("all_slices (every slice of the query, without a look at its truth)")
        return " and ".join(parts)

    def _describe_support(self) -> str:
        scope = "in the fold, " if self.support_scans == "fold" else "after the fold, "
        clause = "which is no query" if self.support_scans == "fold" else "so that every scan is a query"
        suffix = "; then every scan of the fold in turn" if self.every_support else ""
        return (
            f"the scan at position {self.supp_idx} {scope}{clause}, or the nearest that shows the organ in "
            f"{self.n_part} slices; {self.n_part} of its slices serve{suffix}"
        )
