"""Read-ahead follows the run times of the jobs."""

from djjp.consumer.read_ahead import HORIZON, LONGEST, ReadAhead


def learned(*seconds: float) -> ReadAhead:
    read_ahead = ReadAhead()
    for value in seconds:
        read_ahead.observe([value])
    return read_ahead


def test_a_consumer_that_has_run_nothing_claims_only_its_free_slots() -> None:
    assert ReadAhead().size(10) == 0


def test_tiny_jobs_are_claimed_by_the_hundred_and_no_more() -> None:
    assert learned(0.00001).size(10) == LONGEST


def test_jobs_of_a_second_are_not_claimed_ahead() -> None:
    assert learned(1.0).size(10) == 0


def test_the_line_is_what_starts_within_the_horizon() -> None:
    assert learned(0.025).size(10) == 10 * HORIZON / 0.025


def test_slots_that_are_stuck_start_nothing() -> None:
    assert learned(0.00001).size(0) == 0


def test_when_jobs_turn_slow_the_line_shrinks_within_a_few_of_them() -> None:
    assert learned(*[0.001] * 100, *[1.0] * 3).size(10) <= 2


def test_a_job_is_overdue_when_it_takes_far_longer_than_those_before_it() -> None:
    assert learned(0.001).stall_threshold() == 2 * HORIZON
    assert learned(3.0).stall_threshold() == 6.0
