"""Hooks of a run: the instruments around it, and the signals `job_started` and `job_finished`."""

from __future__ import annotations

from contextlib import suppress

from djjp import instruments, signals
from djjp.durations import to_datetime
from djjp.engine import Claimed, Outcome
from djjp.instruments import Around, Ending, JobRun
from djjp.jobs.current import CurrentJob, running
from djjp.models import FINISHED, State

_ENDINGS: dict[State, Ending] = {
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
    State.READY: "retry",
    State.SCHEDULED: "retry",
}


class RunHooks:
    """The hooks of one execution; its methods are called in the context of the job.

    Attributes:
        job: the run as instruments and receivers get it.
    """

    __slots__ = ("_around", "_current", "job")

    def __init__(
        self, claimed: Claimed, current: CurrentJob, consumer: str, started: float
    ) -> None:
        self._current = current
        self._around = Around()
        self.job = JobRun(
            claimed.id,
            claimed.name,
            claimed.queue,
            claimed.attempt,
            claimed.rescues,
            instruments.to_context(claimed.context),
            consumer,
            to_datetime(claimed.enqueued_at),
            to_datetime(started),
            claimed.waited(started),
        )

    def begin(self) -> None:
        """Enter the instruments, then send `job_started`."""
        self._enter()
        if signals.job_started.receivers:
            signals.send(signals.job_started, self._sender, job=self.job)

    async def abegin(self) -> None:
        """`begin` for coroutines."""
        self._enter()
        if signals.job_started.receivers:
            await signals.asend(signals.job_started, self._sender, job=self.job)

    def end(self, outcome: Outcome, *, abandoned: bool) -> None:
        """Send `job_finished` if the job has ended for good, then leave the instruments.

        Args:
            abandoned: whether the consumer has recorded another end of the job before.
        """
        if self._note(outcome) and not abandoned:
            signals.send(signals.job_finished, self._sender, job=self.job)
        self._around.leave(self.job.exception)

    async def aend(self, outcome: Outcome, *, abandoned: bool) -> None:
        """`end` for coroutines."""
        if self._note(outcome) and not abandoned:
            with suppress(BaseException):  # the task was cancelled meanwhile
                await signals.asend(signals.job_finished, self._sender, job=self.job)
        self._around.leave(self.job.exception)

    def put_off(self) -> None:
        """Leave the instruments of a run whose function was not called: the job will run anew."""
        self.job.outcome = "retry"
        self._around.leave(None)

    @property
    def _sender(self) -> object:
        return signals.job_named(self.job.name)

    def _enter(self) -> None:
        running.set(self._current)
        instruments.enter_run(self._around, self.job)

    def _note(self, outcome: Outcome) -> bool:
        """Record what becomes of the job; return whether receivers of `job_finished` get it."""
        self.job.outcome = _ENDINGS[outcome.state]
        if outcome.run_after is not None:
            self.job.run_after = to_datetime(outcome.run_after)
        return bool(signals.job_finished.receivers) and outcome.state in FINISHED
