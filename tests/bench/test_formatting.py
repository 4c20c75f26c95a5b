import pytest

from bench import formatting
from bench.measuring import Measurement


def test_a_table_is_markdown_with_escaped_bars():
    assert formatting.table(["a", "b"], [["1", "x|y"]]) == "| a | b |\n| --- | --- |\n| 1 | x\\|y |"


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"2 cells, got \['1'\]"):
        formatting.table(["a", "b"], [["1"]])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (12.34, "12.3 s"),
        (1.2345, "1.23 s"),
        (123.4, "123 s"),
        (0.9996, "1.00 s"),
        (0.9994, "999 ms"),
        (0.04567, "45.7 ms"),
        (0.0099951, "10.0 ms"),
        (3.2e-6, "3.20 µs"),
    ],
)
def test_durations_have_three_digits_and_a_suitable_unit(seconds, text):
    assert formatting.duration(seconds) == text


def test_the_range_follows_the_median_in_its_unit():
    assert formatting.times(Measurement((1.31, 1.2, 1.23), 0.0)) == "1.23 s (1.20-1.31)"
    assert formatting.times(Measurement((0.9, 1.0, 1.1, 0.02), 0.0)) == "950 ms (20.0-1100)"


def test_ratios_compare_medians_and_peaks():
    slow, fast = Measurement((1.0, 10.0, 90.0), 900.0), Measurement((3.0, 4.0, 5.0), 200.0)
    assert formatting.time_ratio(slow, fast) == "2.50x"
    assert formatting.memory_ratio(slow, fast) == "4.50x"


def test_memory_is_in_gb_from_ten_thousand_mb():
    assert formatting.memory(Measurement((1.0,), 9999.4)) == "9999 MB"
    assert formatting.memory(Measurement((1.0,), 12345.0)) == "12.3 GB"


def test_a_spread_is_the_mean_with_the_range_unless_all_are_equal():
    assert formatting.spread([0.5, 0.6, 0.55]) == "0.550 (0.500-0.600)"
    assert formatting.spread([0.5, 0.5001]) == "0.500"
    assert formatting.spread([0.25]) == "0.250"
    assert formatting.spread([]) == ""
