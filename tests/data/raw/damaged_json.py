"""Ways to damage a custom dataset's `dataset.json`: `(name, set, damage, words of the one line)`."""

from tests.data.raw.raw_sets import write_json


def _json(**changes):
    return lambda folder, written: write_json(folder / "dataset.json", **changes)


def _text(text):
    return lambda folder, written: (folder / "dataset.json").write_text(text) and None


JSON = [
    (
        "no dataset.json",
        "Hips",
        lambda folder, written: (folder / "dataset.json").unlink(),
        r"must come with a dataset\.json",
    ),
    ("dataset.json no JSON", "Hips", _text('{"name": "Hips",'), r"dataset\.json: must be JSON"),
    ("dataset.json a list", "Hips", _text("[1, 2]"), r"dataset\.json: must be a JSON object"),
    ("key twice", "Hips", _text('{"name": "Hips", "name": "Hips"}'), r"duplicate keys name"),
    ("key misspelt", "Hips", _json(spacing_m=[4, 2, 2]), r"unknown key spacing_m, did you mean spacing_mm"),
    (
        "orientation to assume that is none",
        "Hips",
        _json(assume_orientation="LPL"),
        r"assume_orientation=.*: must be",
    ),
    (
        "two channels",
        "Hips",
        _json(channel_names={"0": "T1", "1": "T2"}),
        r"channel_names=.*: must be one channel",
    ),
    (
        "regions as labels",
        "Hips",
        _json(labels={"background": 0, "hip": [1, 3]}),
        r"'hip' must be one id, got nnU-Net's reg",
    ),
    (
        "nnU-Net's old form of labels",
        "Hips",
        _json(labels={"0": "background", "1": "hip"}),
        r"old form id: name",
    ),
    (
        "nnU-Net's ignore label",
        "Hips",
        _json(labels={"background": 0, "a": 1, "b": 3, "ignore": 4}),
        r"'ignore' \(got 4\)",
    ),
    (
        "organ name that is a path",
        "Hips",
        _json(labels={"background": 0, "../a": 1, "b": 3}),
        r"names must be valid in file names",
    ),
    (
        "two organs of one id",
        "Hips",
        _json(labels={"background": 0, "a": 1, "b": 3, "c": 3}),
        r"ids must differ, 'c' and 'b'",
    ),
    (
        "test label that is none",
        "Hips",
        _json(test_labels=[1, 2]),
        r"test_labels=.*: must be a list of some of 1, 3, each once",
    ),
    ("spacing of two numbers", "Hips", _json(spacing_mm=[4, 2]), r"spacing_mm=.*: must be .*"),
    ("window upside down", "Hips", _json(clip={"window": [5, -5]}), r"clip=.*: must be .* low below high"),
    (
        "orientation with one axis twice",
        "Hips",
        _json(orientation="LRS"),
        r"orientation=.*: must be three letters",
    ),
]
