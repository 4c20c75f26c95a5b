from bench.comparison import comparison_table, headline_rows
from bench.measuring import Measurement

MEASURED = {
    "fp32 fast": Measurement((2.0,), 100.0),
    "fp32 naive": Measurement((8.0,), 300.0),
    "bf16 fast": Measurement((1.0,), 50.0),
    "bf16 naive": Measurement((5.0,), 200.0),
    "tf32 fast": Measurement((1.6,), 100.0),
}


def test_variants_are_compared_with_the_naive_one_of_their_format_or_of_fp32():
    table = comparison_table("Steps", "step", MEASURED, details={"n": lambda m: str(len(m.seconds))})
    assert table.columns[:5] == ["format", "variant", "step", "n", "peak memory"]
    ratios = {(row[0], row[1]): row[5:] for row in table.rows}
    assert ratios["bf16", "fast"] == ["5.00x", "8.00x", "4.00x"]
    assert ratios["tf32", "fast"] == ["5.00x", "5.00x", "3.00x"]


def test_the_summary_compares_with_naive_fp32_and_names_the_ratio_to_the_same_format():
    [row] = headline_rows("step", MEASURED, {"bf16": ">= 6x"})
    assert (row.name, row.ratio, row.memory_ratio) == ("step, bf16", "8.00x (naive bf16: 5.00x)", "6.00x")
