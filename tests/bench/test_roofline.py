from bench import roofline
from bench.measuring import Measurement
from bench.roofline import matrix_rate, roofline_table


def test_the_matrix_rate_counts_two_operations_per_multiply_add(monkeypatch):
    monkeypatch.setattr(
        roofline, "time_calls", lambda function, repeats, **_: [function() is None or 0.5, 2.0]
    )
    assert matrix_rate("float32", n=8) == 2 * 8**3 / 0.5


def test_the_lower_bound_is_compared_with_the_fast_variants_that_were_counted():
    measured = {
        "fp32 fast": Measurement((8.0, 7.0, 9.0), 1.0),
        "fp32 naive": Measurement((50.0,), 1.0),
        "bf16 fast": Measurement((4.0,), 1.0),
    }
    counted = {"fp32": Measurement((), 1.0, {"flop": 1e12})}
    table = roofline_table(measured, counted, {"fp32": 5e11, "bf16": 1e12}, unit="step")
    assert table.rows == [["fp32", "1.00 TFLOP", "500 GFLOP/s", "2.00 s", "8.00 s (7.00-9.00)", "25%"]]
    assert table.columns[3:] == ["lower bound", "step", "bound / time"]
