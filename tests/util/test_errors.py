"""Texts of messages."""

from util.errors import shorten_list


def test_many_values_make_no_long_message():
    assert shorten_list(["a"]) == "a"
    assert shorten_list("abcde") == "a, b, c, d, e"
    assert shorten_list("abcdefg") == "a, b, c, d, e and 2 more"
    assert shorten_list(range(4), n_max=2, separator="; ") == "0; 1 and 2 more"
