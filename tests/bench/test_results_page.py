import json
from dataclasses import asdict

import pytest

from bench.results_page import make_page, read_sections
from bench.sections import Headline, Plot, Section, Table
from util.errors import UserError


def section(title, **others):
    return Section(
        title=title,
        command=f"bash bench/run.sh {title.lower()}",
        intro=f"About {title}.",
        machine={"processor": "P", "cores": "2"},
        versions={"Python": "3.11"},
        **others,
    )


def save(folder, device, name, content):
    path = folder / device / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(asdict(content)))
    return path


def test_sections_have_a_fixed_order_with_the_cpu_first(tmp_path):
    for device, name in [
        ("cuda", "training_step"),
        ("cpu", "zebra"),
        ("cpu", "supervoxels"),
        ("cpu", "evaluation"),
    ]:
        save(tmp_path, device, name, section(name))
    titles = [(device, section.title) for device, section in read_sections(tmp_path)]
    assert titles == [
        ("cpu", "evaluation"),
        ("cpu", "supervoxels"),
        ("cpu", "zebra"),
        ("cuda", "training_step"),
    ]


def test_a_section_survives_the_round_trip(tmp_path):
    complete = section(
        "One",
        tables=[Table("t", ["a"], [["1"]])],
        plots=[Plot("p.png", "A plot.")],
        remarks=["r"],
        headline=[Headline("n", "f", "s", "2x", "3x", ">= 2x")],
    )
    save(tmp_path, "cpu", "one", complete)
    assert read_sections(tmp_path) == [("cpu", complete)]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"title": "T", "tables": []}'])
def test_an_invalid_file_is_named(tmp_path, content):
    path = save(tmp_path, "cpu", "bad", content)
    with pytest.raises(
        UserError, match=f"{path}: must be a benchmark result .*; delete it and repeat the benchmark"
    ):
        read_sections(tmp_path)


def test_the_page_has_the_summary_first_and_the_machine_of_each_section():
    fast = section("Fast", headline=[Headline("step", "1 s", "9 s", "9x", "2x", ">= 3x")])
    shown = section("Shown", plots=[Plot("p.png", "A plot.")], remarks=["A remark."])
    page = make_page([("cpu", shown), ("cuda", fast)])
    summary = "| step (cuda) | 1 s | 9 s | 9x | 2x | >= 3x |"
    parts = ["# Measurements", "bash bench/run.sh\n", "## Summary", summary, "## Shown", "## Fast (cuda)"]
    positions = [page.index(text) for text in parts]
    assert positions == sorted(positions)
    assert "`bash bench/run.sh shown`; P, 2 cores; Python 3.11." in page
    assert "A plot.\n\n![p.png](plots/p.png)" in page
    assert "- A remark." in page


def test_a_page_without_results_explains_how_to_produce_them():
    page = make_page([])
    assert "bash bench/run.sh" in page
    assert "## Summary" not in page
