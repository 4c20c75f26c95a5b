"""Grey levels come out of PNG files as they are."""

import cv2
import numpy as np
import pytest

from data.raw.png import read_grey_levels

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
