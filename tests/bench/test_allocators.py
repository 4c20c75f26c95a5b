"""Which allocators are compared, and when one is worth a setting."""

from pathlib import Path

from bench import allocators
from bench.measuring import Measurement


def _measurement(*cpu_s):
    usages = [{"cpu_s": value, "system_s": value / 10, "page_faults": 50.0} for value in cpu_s]
    return Measurement((1.0,), 300.0, {"usages": usages})


MEASURED = {"glibc": [_measurement(2.0, 9.0), _measurement(2.0)], "jemalloc": [_measurement(1.5, 1.6)]}


def test_the_saving_compares_medians_of_all_runs_with_the_default():
    table = allocators.make_table("Step", MEASURED, n_slices=2)
    assert [row[0] for row in table.rows] == ["glibc", "jemalloc"]
    assert table.rows[0][1:] == ["1.00 s (1.00-4.50)", "100 ms", "25", "300 MB", "+0.0%"]
    assert (table.rows[1][3], table.rows[1][5]) == ("25", "+22.5%")


def test_a_remark_states_whether_the_best_setting_is_worthwhile():
    worthwhile = allocators.make_remark("Step", MEASURED)
    assert worthwhile.endswith("of glibc's processor time; jemalloc saves 22.5%, worthwhile.")
    assert worthwhile.startswith("Step: the kernel works for 10.0% of")
    little = {"glibc": [_measurement(2.0)], "jemalloc": [_measurement(1.96)]}
    assert allocators.make_remark("Step", little).endswith("jemalloc saves 2.0%, less than 5%.")
    none = {"glibc": [_measurement(2.0)], "jemalloc": [_measurement(2.1)]}
    assert allocators.make_remark("Step", none).endswith("; none is faster.")
    scattered = {"glibc": [_measurement(2.0, 1.5, 2.1)], "jemalloc": [_measurement(1.6)]}
    assert allocators.make_remark("Step", scattered).endswith(
        "jemalloc saves 20.0%, within the scatter of the runs."
    )


def test_missing_libraries_are_left_out_and_found_ones_preloaded(monkeypatch, tmp_path):
    Path(tmp_path, "libmimalloc.so.2").touch()
    monkeypatch.setattr(allocators, "_LIBRARY_DIRS", (tmp_path / "none", tmp_path))
    monkeypatch.setattr(allocators, "find_library", {"mimalloc": "libmimalloc.so.2"}.get)
    result = dict(allocators.list_allocators())
    assert result["glibc"] == {}
    assert result["mimalloc"] == {"LD_PRELOAD": str(tmp_path / "libmimalloc.so.2")}
    assert "jemalloc" not in result
