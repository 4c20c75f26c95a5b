"""Label files become label ids, whichever of a dataset's two numberings they hold."""

from pathlib import Path

import numpy as np
import pytest

from data.datasets import find_spec
from data.label_maps import format_value, to_label_ids
from util.errors import UserError
from util.remarks import Remark

PLACE = Path("label_3.nii.gz")
CMR, CHAOS = find_spec("CMR"), find_spec("CHAOST2")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32, np.float64])
def test_ids_of_any_type_stay(dtype):
    stored = np.array([[[0, 4, 2, 4]]], dtype=dtype)
    ids = to_label_ids(stored, CHAOS, path=PLACE)
    assert ids.tolist() == [[[0, 4, 2, 4]]]
    assert ids.dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, np.float64])
def test_raw_ids_are_mapped_and_that_is_said(dtype):
    stored = np.array([[[0, 200, 500, 600, 200]]], dtype=dtype)
    with pytest.warns(Remark, match="CMR: label files with raw ids, read 200 as 1 LV myocardium"):
        ids = to_label_ids(stored, CMR, path=PLACE)
    assert ids.tolist() == [[[0, 1, 2, 3, 1]]]


@pytest.mark.filterwarnings("error")
def test_mapped_ids_are_not_remarked_on():
    stored = np.array([[[0, 1, 2, 3]]], np.int16)
    np.testing.assert_array_equal(to_label_ids(stored, CMR, path=PLACE), stored)


@pytest.mark.parametrize(
    ("values", "spec", "message"),
    [
        ([0, 1, 421], CMR, "421"),
        ([0, 200, 501, 600], CMR, "501"),
        ([0, 5, 200], CHAOS, "5, 200"),
        ([-5, 0, 1, 2**40], CHAOS, "-5, 1099511627776"),
        (np.array([0, 0.9999999, 1], np.float32), CHAOS, "0.9999999"),
        (np.array([0, 0.5, np.nan]), CHAOS, "0.5, nan"),
        (list(range(5, 13)), CHAOS, "5, 6, 7, 8, 9 and 3 more"),
    ],
)
def test_values_of_neither_numbering_are_refused_as_they_are_in_the_file(values, spec, message):
    with pytest.raises(UserError, match=r"^label_3\.nii\.gz: label values must be among 0, 1") as caught:
        to_label_ids(np.array([[values]]), spec, path=PLACE)
    assert f"got {message}; correct these voxels" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [(np.float32(0.9999999), "0.9999999"), (np.float64(2.5), "2.5"), (7, "7"), (np.float32(1), "1")],
)
def test_a_value_is_written_so_that_it_differs_from_its_neighbours(value, text):
    assert format_value(value) == text


def test_label_ids_and_raw_ids_in_one_file_are_refused():
    stored = np.array([[[0, 1, 500]]], np.int16)
    with pytest.raises(UserError, match=r"must hold either label ids or raw ids, got both \(0, 1, 500\)"):
        to_label_ids(stored, find_spec("CMR"), path=Path("label_3.nii.gz"))
