"""Read-ahead follows the run times of the jobs."""

from djjp.consumer.read_ahead import LONGEST, START_WITHIN, ReadAhead


def learned(*seconds: float) -> ReadAhead:
    read_ahead = ReadAhead()
    for value in seconds:
        read_ahead.observe([value])
    return read_ahead


def test_without_run_times_only_free_slots_are_claimed() -> None:
    assert ReadAhead().size(10) == 0


def test_tiny_jobs_are_claimed_by_the_hundred_and_no_more() -> None:
    assert learned(0.00001).size(10) == LONGEST


def test_jobs_of_a_second_are_not_claimed_ahead() -> None:
    assert learned(1.0).size(10) == 0


def test_the_read_ahead_is_the_number_of_jobs_that_start_within_the_horizon() -> None:
    assert learned(0.025).size(10) == 10 * START_WITHIN / 0.025


def test_stalled_slots_add_nothing_to_the_read_ahead() -> None:
    assert learned(0.00001).size(0) == 0


def test_the_read_ahead_shrinks_within_a_few_slow_jobs() -> None:
    assert learned(*[0.001] * 100, *[1.0] * 3).size(10) <= 2


def test_the_stall_threshold_is_far_above_the_run_times_so_far() -> None:
    assert learned(0.001).stall_threshold() == 2 * START_WITHIN
    assert learned(3.0).stall_threshold() == 6.0
