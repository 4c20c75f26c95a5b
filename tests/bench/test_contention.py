"""Why a target under load cannot be met."""

from bench.contention import NO_LOAD, explain_bound
from bench.measuring import Measurement


def _measured(one_thread):
    """Times of two loads in seconds; spinning without load takes 2 s."""
    idle = {"spinning": 2.0, "adaptive": 2.0, "one thread": one_thread}
    busy = {"spinning": 9.0, "adaptive": 5.0, "one thread": 6.0}
    loads = {NO_LOAD: idle, "1 busy process": busy}
    return {
        load: {policy: Measurement((seconds,), 1.0) for policy, seconds in times.items()}
        for load, times in loads.items()
    }


def test_one_thread_slower_than_the_target_bounds_what_two_threads_on_one_core_can_reach():
    [line] = explain_bound("training step", _measured(3.4))
    assert line.startswith("Training step, 1 busy process on two cores: ")
    assert "takes 1.70x even without other load, more than the target of 1.6x" in line
    assert line.endswith("with the busy process it took 3.00x, and `adaptive` 2.50x.")


def test_nothing_is_explained_where_one_thread_is_fast_enough_or_was_not_measured():
    assert explain_bound("slice", _measured(3.2)) == []
    without = _measured(3.4)
    del without[NO_LOAD]["one thread"]
    assert explain_bound("large step", without) == []
