"""Write `predictions.html`: every segmented scan, doubtful ones first."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.prediction_files import PAGE_HTML
from data.prediction_results import (
    Agreement,
    ScanSummary,
    SupportScore,
    describe_doubtful,
    sort_by_doubt,
)
from util.evaluation.page_rendering import render_page
from util.evaluation.prediction_pictures import OutlinedSlice, ScanPictures, picture_scan
from util.io.files import write_text
from util.io.image_io import Geometry

# Okabe-Ito without black; labels beyond them are dashed.
COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2")
_N_OPEN = 3  # scans whose details are open, as many as `describe_doubtful` names
_MARKS_ID_LENGTH = 16


@dataclass
class PredictionPage:
    """Pictures of scans and supports, collected while scans are segmented.

    Attributes:
        labels: id -> name.
        scans, supports: name -> pictures.
        support_scores: of several supports, see `SupportScore`.
    """

    labels: Mapping[int, str]
    scans: dict[str, ScanPictures] = field(default_factory=dict)
    supports: dict[str, ScanPictures] = field(default_factory=dict)
    support_scores: Sequence[SupportScore] = ()

    def add_scan(self, name: str, image: np.ndarray, label_map: np.ndarray, geometry: Geometry) -> None:
        """Add a segmented scan; see `picture_scan`."""
        self.scans[name] = picture_scan(image, label_map, geometry, labels=self.labels)

    def add_support(self, name: str, image: np.ndarray, label_map: np.ndarray, geometry: Geometry) -> None:
        """Add an annotated scan; see `picture_scan`."""
        self.supports[name] = picture_scan(image, label_map, geometry, labels=self.labels)

    def report(
        self, out: Path, summaries: Mapping[str, ScanSummary], *, failed: Mapping[str, str], notice: str
    ) -> None:
        """Write the page and print its path; a missing package causes a warning only.

        Arguments and other errors are those of `write`.
        """
        try:
            print(f"pictures, to be checked: {self.write(out, summaries, failed=failed, notice=notice)}")
        except ImportError as error:
            print(f"warning: no {PAGE_HTML} was written ({error}); run pip install -r requirements.txt")

    def write(
        self, out: Path, summaries: Mapping[str, ScanSummary], *, failed: Mapping[str, str], notice: str
    ) -> Path:
        """Write the page.

        Args:
            out: the folder of the results.
            summaries: file name of the result -> summary; the scans to show.
            failed: file -> why it could not be segmented.
            notice: what the masks must not be used for.

        Returns:
            The page's path.

        Raises:
            UserError: the page cannot be written.
            ImportError: jinja2 cannot be used.
        """
        pictures = [*self.supports.values(), *(self.scans[name] for name in summaries)]
        values = {
            "title": f"{len(summaries)} segmented scan{'' if len(summaries) == 1 else 's'}",
            "marks_id": _hash_summaries(summaries),
            "notice": notice,
            "doubtful": describe_doubtful(summaries, n_named=_N_OPEN) if summaries else "",
            "failed": list(failed.values()),
            "labels": self._describe_labels(),
            "describe_outlines": self._describe_outlines,
            "supports": self.supports,
            "support_scores": [self._describe_score(score) for score in self.support_scores],
            "scans": [
                self._describe_scan(name, summaries[name], is_open=n < _N_OPEN)
                for n, name in enumerate(sort_by_doubt(summaries))
            ],
            "images": {key: data for picture in pictures for key, data in picture.images.items()},
        }
        write_text(out / PAGE_HTML, render_page("predictions.html.j2", values))
        return out / PAGE_HTML

    def _describe_labels(self) -> dict[int, dict[str, Any]]:
        return {
            label: {
                "name": name,
                "colour": COLOURS[n % len(COLOURS)],
                "dashes": "" if n < len(COLOURS) else "6 3" if n < 2 * len(COLOURS) else "2 3",
            }
            for n, (label, name) in enumerate(self.labels.items())
        }

    def _describe_outlines(self, outlined: OutlinedSlice) -> str:
        """List what is outlined in a slice, as its alternative text."""
        names = ", ".join(self.labels[label] for label in outlined.outlines)
        return f"outlines of {names}" if names else "nothing outlined"

    def _describe_scan(self, name: str, summary: ScanSummary, *, is_open: bool) -> dict[str, Any]:
        return {
            "name": name,
            "is_open": is_open,
            "confidence": summary.confidence,
            "confidences": {label: _format(value) for label, value in summary.confidences.items()},
            "volumes": {label: f"{ml:.1f}" for label, ml in summary.volumes_ml.items()},
            "agreements": [self._describe_agreement(agreement) for agreement in summary.agreements],
            "failures": summary.failures,
            "pictures": self.scans[name],
        }

    def _describe_agreement(self, agreement: Agreement) -> Sequence[str]:
        return (self.labels[agreement.label], agreement.support, *map(_format, agreement.values))

    def _describe_score(self, score: SupportScore) -> Sequence[str]:
        values = (score.alone, score.together, score.without)
        return (self.labels[score.label], score.scan, score.support, *map(_format, values))


def _format(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _hash_summaries(summaries: Mapping[str, ScanSummary]) -> str:
    """Identify the results, so that marks of one page do not show in another."""
    text = json.dumps({name: dict(summary.volumes_ml) for name, summary in summaries.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_MARKS_ID_LENGTH]
