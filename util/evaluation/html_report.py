"""Assemble an evaluation's report: a self-contained HTML page."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from util.evaluation.method_names import SLICE_MEANINGS
from util.evaluation.metrics import VolumeScore
from util.evaluation.page_rendering import render_page
from util.evaluation.paper_tables import tabulate_metric, tabulate_organs
from util.evaluation.report import final_method, select
from util.evaluation.report_cases import Cases, group_by_organ
from util.evaluation.report_contents import add_counts, show_cases, show_table
from util.evaluation.report_figures import draw_distribution, draw_training_curves, figure_svg, save_figure
from util.evaluation.report_sources import (
    describe_protocol,
    list_commands,
    list_configuration,
    list_environment,
    list_facts,
    list_remarks,
    make_title,
    read_histories,
)
from util.io.files import write_text

REPORT_NAME, FIGURES_FOLDER = "report.html", "figures"
_MARKS_ID_LENGTH = 16


def report_evaluation(
    folder: Path, scores: Sequence[VolumeScore], summary: Mapping[str, Any], cases: Cases
) -> None:
    """Write the report of an evaluation or a cross-validation, and print its path.

    If a package is missing, a warning is printed and the evaluation continues. Arguments and other
    errors are those of `write_report`.
    """
    started = time.perf_counter()
    try:
        path = write_report(folder, scores, summary, cases)
    except ImportError as error:
        print(f"warning: no report was written ({error}); run pip install -r requirements.txt", flush=True)
        return
    print(f"report, written in {time.perf_counter() - started:.1f} s: {path}", flush=True)


def write_report(
    folder: Path, scores: Sequence[VolumeScore], summary: Mapping[str, Any], cases: Cases
) -> Path:
    """Write `report.html`, and the figures of Dice as PDF and PNG in `figures/`.

    Args:
        folder: of the evaluation or the cross-validation.
        scores: of all methods, protocols and supports; those of other supports than the main one are left
            out.
        summary: as in `scores.json`.
        cases: of the method whose predictions are kept.

    Returns:
        The page's path.

    Raises:
        UserError: a file cannot be written.
        ImportError: jinja2 or matplotlib cannot be used.
    """
    from markupsafe import Markup  # late: only reports need it

    scores = select(scores, main_support=True)
    curves = draw_training_curves(read_histories(summary))
    sections = [
        _make_section(folder, select(scores, protocol=protocol), cases)
        for protocol in dict.fromkeys(score.protocol for score in scores)
    ]
    for section in sections:
        section["figure"] = Markup(section["figure"])
    displayed = {key for section in sections for key in section["image_ids"]}
    values = {
        "title": make_title(summary, scores),
        "marks_id": _hash_scores(scores),
        "protocol": describe_protocol(summary, scores),
        "remarks": list_remarks(summary, scores, cases),
        "sections": sections,
        "curves": None if curves is None else Markup(figure_svg(curves, "curves")),
        "images": {key: data for key, data in cases.images.items() if key in displayed},
        "facts": list_facts(summary),
        "settings": list_configuration(summary),
        "environment": list_environment(summary),
        "commands": list_commands(summary),
    }
    page = render_page("report.html.j2", values)
    write_text(folder / REPORT_NAME, page)
    return folder / REPORT_NAME


def _make_section(folder: Path, scores: Sequence[VolumeScore], cases: Cases) -> dict[str, Any]:
    """Make the part of a page on one choice of slices."""
    protocol, method = scores[0].protocol, final_method({score.method for score in scores})
    final = select(scores, method=method)
    named = {name: select(scores, method=name) for name in dict.fromkeys(score.method for score in scores)}
    with_organ = [score for score in final if score.has_organ]
    figure = ""
    if with_organ:
        distribution = draw_distribution(final)
        save_figure(distribution, folder / FIGURES_FOLDER, f"dice_{protocol}")
        figure = figure_svg(distribution, protocol)
    displayed = [
        case for case in cases.cases if case.score.protocol == protocol and case.score.method == method
    ]
    # As in the means, queries without the organ do not count.
    organs = [
        {"organ": group[0].score.organ, "cases": show_cases(group)} for group in group_by_organ(displayed)
    ]
    thumbnails = sorted(displayed, key=lambda case: (case.score.dice, case.score.label))
    pairs = [pair for organ in organs for entry in organ["cases"] for pair in entry["case"].pairs]
    images = {view.image for pair in pairs for view in (pair.query, pair.support)}
    return {
        "protocol": protocol,
        "method": method,
        "meaning": SLICE_MEANINGS.get(protocol, protocol),
        "tables": [
            show_table(tabulate_metric(named, "dice", protocol), "method"),
            show_table(add_counts(tabulate_organs(final, protocol), final), "organ"),
        ],
        "figure": figure,
        "figure_text": _describe_distribution(with_organ),
        "organs": organs,
        "has_priors": any(pair.prior for pair in pairs),
        "thumbnails": [{"case": case, "key": _case_key(case.score)} for case in thumbnails],
        "image_ids": images | {case.pairs[0].query.image for case in thumbnails},
    }


def _describe_distribution(scores: Sequence[VolumeScore]) -> str:
    """List the Dice of each scan by organ, as the figure's alternative text."""
    lines = []
    for organ in dict.fromkeys(score.organ for score in scores):
        values = [f"scan {score.query_id} {score.dice:.2f}" for score in select(scores, organ=organ)]
        lines.append(f"{organ}: {', '.join(values)}")
    return "; ".join(lines)


def _case_key(score: VolumeScore) -> str:
    return f"{score.protocol}/fold {score.fold}/scan {score.query_id}/{score.organ}"


def _hash_scores(scores: Sequence[VolumeScore]) -> str:
    """Identify the scores, so that marks of one report do not show in another."""
    text = json.dumps([vars(score) for score in scores], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_MARKS_ID_LENGTH]
