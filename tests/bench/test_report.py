import json
from dataclasses import asdict

import pytest

from bench.report import format_table, make_page, read_sections
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


def test_a_table_is_written_with_its_caption_and_its_bars_escaped():
    table = Table("Two:", ["a", "b"], [["1", "x|y"]])
    assert format_table(table) == "Two:\n\n| a | b |\n| --- | --- |\n| 1 | x\\|y |\n"


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"table 'Two:': 2 columns, but the row \['1'\]"):
        format_table(Table("Two:", ["a", "b"], [["1"]]))


def test_sections_come_in_a_fixed_order_the_cpus_first(tmp_path):
    for device, name in [
        ("cuda", "training_step"),
        ("cpu", "zebra"),
        ("cpu", "supervoxels"),
        ("cpu", "evaluation"),
    ]:
        save(tmp_path, device, name, section(name))
    found = [(device, one.title) for device, one in read_sections(tmp_path)]
    assert found == [
        ("cpu", "evaluation"),
        ("cpu", "supervoxels"),
        ("cpu", "zebra"),
        ("cuda", "training_step"),
    ]


def test_a_section_survives_its_file(tmp_path):
    whole = section(
        "One",
        tables=[Table("t", ["a"], [["1"]])],
        plots=[Plot("p.png", "A plot.")],
        remarks=["r"],
        headline=[Headline("n", "f", "s", "2x", "3x", ">= 2x")],
    )
    save(tmp_path, "cpu", "one", whole)
    assert read_sections(tmp_path) == [("cpu", whole)]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"title": "T", "tables": []}'])
def test_a_file_that_is_no_section_is_named(tmp_path, content):
    path = save(tmp_path, "cpu", "bad", content)
    with pytest.raises(
        UserError, match=f"{path}: is not a benchmark's result .*; delete it and run it again"
    ):
        read_sections(tmp_path)


def test_the_page_tells_the_summary_first_and_where_each_section_ran():
    fast = section("Fast", headline=[Headline("step", "1 s", "9 s", "9x", "2x", ">= 3x")])
    shown = section("Shown", plots=[Plot("p.png", "A plot.")], remarks=["Mind this."])
    page = make_page([("cpu", shown), ("cuda", fast)])
    summary = "| step (cuda) | 1 s | 9 s | 9x | 2x | >= 3x |"
    in_order = ["# Measurements", "bash bench/run.sh\n", "## Summary", summary, "## Shown", "## Fast (cuda)"]
    places = [page.index(text) for text in in_order]
    assert places == sorted(places)
    assert "`bash bench/run.sh shown`; P, 2 cores; Python 3.11." in page
    assert "A plot.\n\n![p.png](plots/p.png)" in page
    assert "- Mind this." in page


def test_a_page_without_results_still_says_how_to_get_them():
    page = make_page([])
    assert "bash bench/run.sh" in page
    assert "## Summary" not in page
