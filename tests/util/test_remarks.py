"""Remarks are printed once, whatever the surroundings make of warnings."""

import warnings

import pytest

from util.remarks import Remark, printed_remarks, remark, rewritten_remarks, with_remarks


def test_a_text_is_printed_once(capsys):
    with printed_remarks():
        for text in ("one", "two", "one"):
            remark(text)
    assert capsys.readouterr().out == "remark: one\nremark: two\n"


def test_each_block_prints_again(capsys):
    for _ in range(2):
        with printed_remarks():
            remark("one")
    assert capsys.readouterr().out == "remark: one\n" * 2


def test_warnings_that_are_errors_do_not_stop_a_remark(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with printed_remarks():
            remark("one")
            with pytest.raises(DeprecationWarning):
                warnings.warn("other", DeprecationWarning, stacklevel=1)
    assert capsys.readouterr().out == "remark: one\n"


def test_other_warnings_are_shown_as_before():
    with pytest.warns(UserWarning, match="other"), printed_remarks():
        warnings.warn("other", UserWarning, stacklevel=1)


def test_remarks_travel_with_a_result():
    def work(argument):
        remark(f"of {argument}")
        remark("twice")
        remark("twice")
        return argument + 1

    assert with_remarks(work, 3) == (4, ["of 3", "twice", "twice"])


def test_remarks_can_be_rewritten(capsys):
    with printed_remarks(), rewritten_remarks(str.upper):
        remark("a file")
        remark("a file")
    assert capsys.readouterr().out == "remark: A FILE\n"


def test_outside_of_a_command_a_remark_is_a_warning():
    with pytest.warns(Remark, match="one"):
        remark("one")
