"""A JSON object is read, or its fault reported in one line."""

import pytest

from util.errors import UserError
from util.io.json_files import read_json_object


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
