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
    with pytest.raises(
        UserError, match=rf"a\.png: must be a whole PNG file, it claims {size[0]} x {size[1]}"
    ):
        read_grey_levels(tmp_path / "a.png")
