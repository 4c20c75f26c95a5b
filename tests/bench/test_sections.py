import json

from bench import sections
from bench.sections import Headline, Plot, Section, Table, write_section


def test_a_section_is_written_with_command_machine_and_versions(tmp_path, monkeypatch):
    monkeypatch.setattr(sections, "ROOT", tmp_path)
    monkeypatch.setattr(sections, "describe_machine", lambda device: {"device": device})
    section = Section(
        title="T",
        intro="i",
        tables=[Table("t", ["a"], [["1"]])],
        plots=[Plot("p.png", "p")],
        headline=[Headline("n", "f", "s", "2x")],
    )
    path = write_section("thing", section, device="cuda:1")
    assert path == tmp_path / "bench" / "results" / "cuda" / "thing.json"
    written = json.loads(path.read_text())
    assert written["machine"] == {"device": "cuda:1"}
    assert written["command"] == "bash bench/run.sh thing --device cuda:1"
    assert "Python" in written["versions"]
    assert written["tables"] == [{"caption": "t", "columns": ["a"], "rows": [["1"]]}]
    quick = write_section("thing", section, quick=True)
    assert quick == tmp_path / "build" / "bench" / "results" / "cpu" / "thing.json"
    assert json.loads(path.read_text()) == written
