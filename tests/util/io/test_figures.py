"""Figures depend on nothing that a user's surroundings set for matplotlib."""

import os
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

from util.io.figures import COLOURS, draw_curves, plain_matplotlib, write_png

DRAW = """
import sys
from util.io.figures import plain_matplotlib
with plain_matplotlib():
    from matplotlib.figure import Figure
    figure = Figure(figsize=(1, 1), dpi=50)
    figure.text(0.1, 0.5, "text")
    figure.savefig(sys.argv[1])
"""


def _draw(path, **environment):
    subprocess.run([sys.executable, "-c", DRAW, str(path)], check=True, env={**os.environ, **environment})
    return path.read_bytes()


def test_a_figure_is_the_same_with_a_notebook_s_backend_and_a_user_s_settings(tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfigure.facecolor: red\n")
    plain = _draw(tmp_path / "plain.png")
    backend = "module://matplotlib_inline.backend_inline"
    assert _draw(tmp_path / "other.png", MPLBACKEND=backend, MATPLOTLIBRC=str(tmp_path)) == plain


def test_settings_and_the_environment_are_as_before_afterwards(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    matplotlib.rcParams["figure.facecolor"] = "blue"
    with plain_matplotlib():
        matplotlib.rcParams["figure.facecolor"] = "red"
        assert matplotlib.rcParams["figure.facecolor"] == "red"
    assert matplotlib.rcParams["figure.facecolor"] == "blue"
    matplotlib.rcdefaults()
    assert os.environ["MPLBACKEND"] == "agg"


def test_a_missing_matplotlib_is_an_import_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError), plain_matplotlib():
        pass


def test_a_picture_is_written_in_its_colours(tmp_path):
    picture = np.zeros((2, 3, 3), np.float32)
    picture[0, 1] = (1.0, 0.5, 2.0)  # too bright values are white
    write_png(tmp_path / "new" / "picture.png", picture)
    with Image.open(tmp_path / "new" / "picture.png") as image:
        assert image.size == (3, 2)
        assert image.getpixel((1, 0)) == (255, 128, 255)
        assert image.getpixel((0, 0)) == (0, 0, 0)


def test_panels_of_the_same_curves_share_a_legend_and_others_have_their_own():
    curve = {"steps": [1, 2], "values": [0.5, float("nan")]}
    missing = {"steps": (), "values": ()}
    shared = draw_curves(
        {"loss": {"fold 0": curve, "fold 1": curve}, "lr": {"fold 0": missing, "fold 1": curve}}
    )
    assert [text.get_text() for text in shared.legends[0].get_texts()] == ["fold 0", "fold 1"]
    assert [axes.get_legend() for axes in shared.axes] == [None, None]
    colours = [[line.get_color() for line in axes.get_lines()] for axes in shared.axes]
    assert colours == [list(COLOURS[:2])] * 2
    separate = draw_curves({"loss": {"total": curve, "query": curve}, "lr": {"rate": curve}}, title="run")
    assert separate.legends == []
    assert [axes.get_legend() is not None for axes in separate.axes] == [True, False]
