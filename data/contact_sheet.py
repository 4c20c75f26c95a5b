"""Draw a contact sheet of a dataset, to check labels and orientation at a glance."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.contact_tiles import SUPERVOXEL_COLOUR, Tile, draw_tile
from data.layout import DatasetLayout
from data.prepared_files import map_scans, read_case_names, read_prepared_files
from util.io.figures import plain_matplotlib
from util.io.files import atomic_write
from util.io.slice_pictures import rgb

# Distinct on grey, the first ones most; they repeat if there are more labels.
_COLOURS = ("#ff4a4a", "#52e052", "#ffe63b", "#4da6ff", "#ff9632", "#d07bff", "#3fe0e8")
_COLOURS += ("#ff5fd7", "#bfff4a", "#ffb3c6", "#2fb7a0", "#c9a3ff", "#d98c3f", "#fff3b0")
_EXPLANATION = "below each: scan, slice, orientation of the file's axes (x, y, z)"
_BACKGROUND, _TEXT_COLOUR = 0.08, "#e8e8e8"
_MAX_TILE_PX, _MIN_TILE_PX, _MAX_WIDTH_PX = 320, 160, 3000
_GAP_PX, _CAPTION_PX, _LINE_PX, _MARGIN_PX = 10, 20, 26, 14
_LETTER_PX, _SWATCH_PX = 9, 40
_DPI = 100
_MAX_NAME_LENGTH = 20
# Matplotlib's points, 72 of which are an inch.
_TITLE_PT, _LEGEND_PT, _CAPTION_PT, _MARK_PT = 13, 10.5, 8.5, 10


def draw_contact_sheet(layout: DatasetLayout, path: Path, *, n_workers: int | None = None) -> None:
    """Draw a slice of each scan with the outlines of labels and supervoxels.

    The slice is halfway between the first and the last labelled one, or the middle one of all. It is shown in
    radiological convention, whatever the file's orientation: axial slices have the patient's right at the
    left and the front at the top. Letters at the edges name the patient's sides, captions the orientation.

    Args:
        layout: paths of the files; labels and supervoxels may be missing.
        path: of the PNG.
        n_workers: see `map_scans`.

    Raises:
        UserError: there is no scan, a file is damaged, files do not belong together, or the PNG cannot be
            written.
        ImportError: matplotlib cannot be used.
    """
    names = read_case_names(layout)
    tile_px, n_columns = _choose_tiles(len(layout.scan_ids()))
    colours = {label: _COLOURS[i % len(_COLOURS)] for i, label in enumerate(layout.spec.labels)}

    def draw(scan_id: int) -> Tile:
        name = names.get(scan_id, "")[:_MAX_NAME_LENGTH]
        title = f"{scan_id} ({name})" if name not in ("", str(scan_id)) else f"{scan_id}"
        files = read_prepared_files(layout, scan_id)
        return draw_tile(files, title, colours=colours, tile_px=tile_px)

    tiles = map_scans(draw, layout, n_workers=n_workers)
    entries = [(colours[label], f"{label} {organ}") for label, organ in layout.spec.labels.items()]
    if any(tile.has_supervoxels for tile in tiles):
        entries.append((SUPERVOXEL_COLOUR, "supervoxels"))
    with plain_matplotlib():
        sheet = _Sheet(len(tiles), n_columns=n_columns, tile_px=tile_px, entries=entries)
        sheet.add_header(f"{layout.spec.name}: {len(tiles)} scans")
        sheet.add_tiles(tiles)
        sheet.save(path)


def _choose_tiles(n_scans: int) -> tuple[int, int]:
    """Return the tiles' side in pixels and their number per row."""
    n_columns = max(3, round((1.5 * n_scans) ** 0.5))
    fitting = _MAX_WIDTH_PX // n_columns - _GAP_PX
    return max(_MIN_TILE_PX, min(_MAX_TILE_PX, fitting)), n_columns


class _Sheet:
    """A page of tiles below a legend; positions in pixels from the upper left."""

    def __init__(
        self, n_tiles: int, *, n_columns: int, tile_px: int, entries: Sequence[tuple[str, str]]
    ) -> None:
        from matplotlib.figure import Figure  # late: only the sheet needs it; no display, no global state

        self._n_columns, self._tile_px, self._entries = n_columns, tile_px, entries
        self._width = n_columns * (tile_px + _GAP_PX) - _GAP_PX + 2 * _MARGIN_PX
        self._entry_px = _SWATCH_PX + _LETTER_PX * max(len(text) for _, text in entries)
        self._n_entries_in_line = max(1, (self._width - 2 * _MARGIN_PX) // self._entry_px)
        n_lines = 1 + -(-len(entries) // self._n_entries_in_line)
        self._header_px = 2 * _MARGIN_PX + n_lines * _LINE_PX
        n_rows = -(-n_tiles // n_columns)
        self._height = self._header_px + n_rows * (tile_px + _CAPTION_PX + _GAP_PX) + _MARGIN_PX
        self._canvas = np.full((self._height, self._width, 3), _BACKGROUND, np.float32)
        self._figure = Figure(figsize=(self._width / _DPI, self._height / _DPI), dpi=_DPI)

    def add_header(self, title: str) -> None:
        """Write the title and the legend."""
        first_y = _MARGIN_PX + _LINE_PX // 2
        self._write(title, (_MARGIN_PX, first_y), size_pt=_TITLE_PT, weight="bold")
        explanation_x = _MARGIN_PX + 1.5 * _LETTER_PX * len(title)
        self._write(_EXPLANATION, (explanation_x, first_y), size_pt=_CAPTION_PT)
        for i, (colour, text) in enumerate(self._entries):
            line, column = divmod(i, self._n_entries_in_line)
            x, y = _MARGIN_PX + column * self._entry_px, _MARGIN_PX + (1.5 + line) * _LINE_PX
            self._canvas[int(y) - 3 : int(y) + 3, x : x + _SWATCH_PX - 16] = rgb(colour)
            self._write(text, (x + _SWATCH_PX - 8, y), size_pt=_LEGEND_PT)

    def add_tiles(self, tiles: Sequence[Tile]) -> None:
        """Draw the tiles row by row, with marks and captions."""
        side = self._tile_px
        for i, tile in enumerate(tiles):
            row, column = divmod(i, self._n_columns)
            left = _MARGIN_PX + column * (side + _GAP_PX)
            top = self._header_px + row * (side + _CAPTION_PX + _GAP_PX)
            height, width = tile.picture.shape[:2]
            y, x = top + (side - height) // 2, left + (side - width) // 2
            self._canvas[top : top + side, left : left + side] = 0
            self._canvas[y : y + height, x : x + width] = tile.picture
            middle_x, middle_y, inset = left + side / 2, top + side / 2, 9
            positions = [(x, middle_y) for x in (left + inset, left + side - inset)]
            positions += [(middle_x, y) for y in (top + inset, top + side - inset)]
            for mark, position in zip(tile.marks, positions, strict=True):
                self._write(mark, position, size_pt=_MARK_PT, centred=True, weight="bold")
            self._write(tile.caption, (left, top + side + _CAPTION_PX / 2), size_pt=_CAPTION_PT)

    def save(self, path: Path) -> None:
        """Write the page as PNG."""
        self._figure.figimage(self._canvas, 0, 0)
        with atomic_write(path, suffix=".png") as temporary:
            self._figure.savefig(temporary, dpi=_DPI)

    def _write(
        self, text: str, position: tuple[float, float], *, size_pt: float, centred: bool = False, **style
    ) -> None:
        """Write a line with its left end, or its middle, at a position."""
        from matplotlib.patheffects import withStroke

        self._figure.text(
            position[0] / self._width,
            1 - position[1] / self._height,
            text.replace("$", r"\$"),  # a dollar sign would start a formula
            size=size_pt,
            color=_TEXT_COLOUR,
            ha="center" if centred else "left",
            va="center_baseline",
            path_effects=[withStroke(linewidth=2, foreground="black")],
            **style,
        )
