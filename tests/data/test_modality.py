"""Scans of another modality: refused if their header says so, remarked on if their intensities do."""

import warnings

import numpy as np
import pytest

from data.modality import check_modality, remark_on_intensities
from data.model_frame import registration_frame
from util.errors import UserError
from util.remarks import Remark


@pytest.mark.parametrize(
    ("found", "expected"), [("MR", "MR"), ("", "MR"), ("OT", "CT"), ("CT", None), ("PT", None)]
)
def test_a_modality_is_accepted_if_it_is_the_expected_one_or_either_is_unknown(found, expected):
    check_modality(found, expected)


def test_another_modality_is_refused():
    assert registration_frame("MR").modality == "MR"
    with pytest.raises(UserError, match=r"must be MR, .* got CT by its DICOM header; leave"):
        check_modality("CT", "MR")


@pytest.mark.parametrize(
    ("lowest", "expected", "text"),
    [
        (0, "CT", r"a\.nii: the lowest intensity is 0, .* expects CT in Hounsfield units, .* below -100; if"),
        (-100, "CT", r"a\.nii: the lowest intensity is -100, .* set modality= .* or use another network"),
        (
            -1024,
            "MR",
            r"a\.nii: the lowest intensity is -1024, .* expects MR, which has no .* below -500; if",
        ),
    ],
)
def test_intensities_unlike_the_expected_modality_are_remarked_on(lowest, expected, text):
    with pytest.warns(Remark, match=text) as remarks:
        remark_on_intensities(np.array([[lowest, 900]], np.int16), expected, name="a.nii")
    assert len(remarks) == 1
    assert "\n" not in str(remarks[0].message)


@pytest.mark.parametrize(
    ("lowest", "expected"), [(-101, "CT"), (-500, "MR"), (0, "MR"), (0, None), (-1024, None)]
)
def test_usual_intensities_and_those_of_an_unknown_modality_pass_silently(lowest, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error", Remark)
        remark_on_intensities(np.array([lowest, 900], np.float32), expected, name="a.nii")
