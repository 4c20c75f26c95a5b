"""Grey levels come out of PNG files as they are."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from data.raw.png import read_grey_levels
from util.errors import UserError

LEVELS = np.random.default_rng(0).integers(0, 256, (7, 5)).astype(np.uint8)


@pytest.mark.parametrize(
    "pixels",
    [
        LEVELS,
        np.stack([LEVELS] * 3, axis=-1),
        np.stack([LEVELS] * 3 + [np.full_like(LEVELS, 9)], axis=-1),
    ],
    ids=["grey", "three equal channels", "with transparency"],
)
def test_levels_and_rows_are_kept(tmp_path, pixels):
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    np.testing.assert_array_equal(read_grey_levels(tmp_path / "a.png"), LEVELS)


def test_what_follows_the_images_end_does_not_matter(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), LEVELS)
    with (tmp_path / "a.png").open("ab") as file:
        file.write(b"more")
    np.testing.assert_array_equal(read_grey_levels(tmp_path / "a.png"), LEVELS)


@pytest.mark.parametrize("size", [(60_000, 60_000), (30_000, 30_000), (0, 7)])
def test_a_size_that_the_file_cannot_hold_is_refused(tmp_path, size):
    cv2.imwrite(str(tmp_path / "a.png"), LEVELS)
    content = bytearray((tmp_path / "a.png").read_bytes())
    struct.pack_into(">II", content, 16, *size)
    struct.pack_into(">I", content, 29, zlib.crc32(bytes(content[12:29])))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png: must be a whole PNG file"):
        read_grey_levels(tmp_path / "a.png")


def _write_png(path, pixels, *, n_bits, colour_type=0, palette=None):
    """Write `(H, W)` values of 1, 2, 4 or 8 bits as the form defines it."""
    per_byte = 8 // n_bits
    padded = np.pad(pixels.astype(np.uint8), ((0, 0), (0, -pixels.shape[1] % per_byte)))
    groups = padded.reshape(len(pixels), -1, per_byte)
    packed = sum(groups[..., i] << (8 - n_bits * (i + 1)) for i in range(per_byte)).astype(np.uint8)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", *pixels.shape[::-1], n_bits, colour_type, 0, 0, 0))]
    if palette is not None:
        chunks.append((b"PLTE", np.repeat(np.array(palette, np.uint8), 3).tobytes()))
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize("n_bits", [1, 2, 4])
def test_grey_levels_of_fewer_bits_are_refused_because_decoders_stretch_them(tmp_path, n_bits):
    _write_png(tmp_path / "a.png", LEVELS % 2, n_bits=n_bits)
    with pytest.raises(UserError, match=rf"a\.png: must have 8 bits a pixel, got {n_bits} by its header"):
        read_grey_levels(tmp_path / "a.png")


@pytest.mark.parametrize("n_bits", [2, 4, 8])
def test_a_palette_of_grey_levels_is_read_through(tmp_path, n_bits):
    levels = np.array([0, 63, 126, 189], np.uint8)
    _write_png(tmp_path / "a.png", LEVELS % 4, n_bits=n_bits, colour_type=3, palette=levels)
    np.testing.assert_array_equal(read_grey_levels(tmp_path / "a.png"), levels[LEVELS % 4])
