"""A JSON object is read, or its fault reported in one line."""

from dataclasses import asdict, dataclass

import pytest

from util.errors import UserError
from util.io.json_files import read_json, read_json_object, write_json


@dataclass(frozen=True)
class _Size:
    shape: tuple[int, int]
    spacing_mm: float


@dataclass(frozen=True)
class _Record:
    names: dict[int, str]
    sizes: tuple[_Size, ...]
    note: str | None = None


def test_a_record_with_nested_ones_is_read_back_as_it_was_written(tmp_path):
    record = _Record({7: "Zürich"}, (_Size((2, 3), 1.5), _Size((4, 5), 1.0)))
    write_json(tmp_path / "a.json", asdict(record), indent=2, ensure_ascii=False)
    assert (tmp_path / "a.json").read_text(encoding="utf-8").startswith('{\n  "names": {\n    "7": "Zürich"')
    assert read_json(tmp_path / "a.json", _Record) == record


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{half",
        "[" * 100_000,
        "[]",
        "null",
        "{}",
        '{"names": {"a": "b"}, "sizes": []}',
        '{"names": {}, "sizes": [{"shape": [1], "spacing_mm": 1}]}',
        '{"names": {}, "sizes": [], "note": 3}',
    ],
)
def test_a_file_of_another_format_is_none(tmp_path, text):
    assert read_json(tmp_path / "missing.json", _Record) is None
    (tmp_path / "a.json").write_text(text)
    assert read_json(tmp_path / "a.json", _Record) is None


def test_a_byte_order_mark_is_ignored(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('\ufeff{"a": {"b": [1, null]}}', encoding="utf-8")
    assert read_json_object(path, kind="file") == {"a": {"b": [1, None]}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{half", r"must be JSON \(.*\); correct the list of scans"),
        ("[" * 100_000, r"must be JSON \(maximum recursion.*\); correct the list of scans"),
        ("[1]", "must be a JSON object, got a list; correct it"),
        ('{"a": {"b": 1, "b": 2}}', "duplicate keys b; keep one of each"),
        (None, r"cannot be read \(No such file or directory\); give a list of scans"),
    ],
    ids=["half", "deep", "list", "twice", "missing"],
)
def test_what_is_wrong_is_reported_in_one_line(tmp_path, text, message):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=rf"a\.json: {message}$") as caught:
        read_json_object(path, kind="list of scans")
    assert "\n" not in str(caught.value)
