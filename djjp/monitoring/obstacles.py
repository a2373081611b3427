"""Obstacles: what keeps one live job from running, apart from the jobs of its pipeline."""

from __future__ import annotations

from collections.abc import Sequence

from djjp.durations import to_seconds
from djjp.engine import Engine
from djjp.engine.line import MOST_COUNTED, MOST_LISTED, Listed
from djjp.jobs import registry
from djjp.models import Flag, Job, RateStart, State
from djjp.monitoring import estimate, running, shapes
from djjp.monitoring.causes import (
    Cause,
    Surroundings,
    at,
    cause,
    claims,
    fact,
    names,
    quoted,
    shown,
    sorted_by_rank,
    start,
)
from djjp.monitoring.consumers import ConsumerInfo, Life

# A job in the queue


def by_hand(job: Job) -> bool:
    """Return whether a row is none that this version writes."""
    if job.state not in State.values or None in (job.priority, job.rescues, job.queue, job.name):
        return True
    if job.state == State.BLOCKED and not job.waits_for and not (job.limit_key and job.limit_max):
        return True
    return job.rescues < 0 or (job.state == State.RUNNING and not job.consumer)


def of_live(
    engine: Engine, job: Job, around: Surroundings, *, is_parent: bool = False
) -> list[Cause]:
    """Return the causes of a job that has not ended, apart from its parents.

    Args:
        is_parent: the causes of another job of the pipeline are wanted, with fewer statements.
    """
    if by_hand(job):
        return [_unknown(job)]
    if job.state == State.RUNNING:
        return running.running(engine, job, around)
    found = [*_paused(job, around), *_no_consumer(job, around)]
    if job.state == State.BLOCKED:
        if not job.waits_for:
            found.append(
                _limit(job, around, engine.line.holders(job), _blocked_before(engine, job))
            )
    elif job.state == State.SCHEDULED and _is_later(job, around):
        found.append(_rate_of_throttled(job) if job.flags & Flag.THROTTLED else _scheduled(job))
    else:
        found += _constraints(engine, job, around)
        found += _line(engine, job, around, found, is_parent=is_parent)
    return _with_expiry(job, around, found)


def _is_later(job: Job, around: Surroundings) -> bool:
    return job.run_after is not None and to_seconds(job.run_after) > around.now


def _unknown(job: Job) -> Cause:
    known = job.state in State.values
    what = (
        "its row has values that no consumer can run with"
        if known
        else f"its state is {job.state!r}"
    )
    text = f"{what}: written by hand, or by another version of djjp"
    return cause("unknown", text, "to delete it", f"djjp delete {job.pk}", state=job.state)


def _paused(job: Job, around: Surroundings) -> list[Cause]:
    if job.queue not in around.paused:
        return []
    until = around.paused[job.queue]
    text = f"queue {job.queue} is paused " + (
        "until somebody resumes it" if until is None else f"until {at(until)}"
    )
    facts = {"queue": job.queue, "until": shapes.time(until)}
    return [cause("paused", text, "to resume it", f"djjp resume {quoted(job.queue)}", **facts)]


def _no_consumer(job: Job, around: Surroundings) -> list[Cause]:
    """Return why no consumer takes a job: none lives, none serves its queue, or none knows its name."""
    queue, serving = job.queue, around.serving(job.queue)
    if (moving := around.transfer) is not None:
        way = (moving.other, around.alias) if moving.incoming else (around.alias, moving.other)
        text = f"the queue is on its way to another database since {at(moving.started_at)}, and no consumer starts"
        remedy = f"djjp transfer {quoted(way[0])} {quoted(way[1])}"
        return [
            cause("no_consumer", text, "to finish it", remedy, queue=queue, transfer=str(moving))
        ]
    able = [info for info in serving if claims(info)]
    if not able:
        return [_none_serves(queue, serving, around)]
    if around.workers(job):
        return []
    text = f"none of the {len(able)} consumers that serve queue {queue} has a job named {job.name}"
    facts = {"name": job.name, "consumers": [shown(info) for info in able[:MOST_LISTED]]}
    if registry.find(job.name) is not None:
        then, remedy = "this code has it: to start a consumer with it", start(queue)
        return [cause("not_registered", text, then, remedy, **facts)]
    then = "start consumers of the release that has it, or to give it up"
    return [cause("not_registered", text, then, f"djjp cancel {job.pk}", **facts)]


def _none_serves(queue: str, serving: Sequence[ConsumerInfo], around: Surroundings) -> Cause:
    facts = {"queue": queue, "consumers": [shown(info) for info in serving[:MOST_LISTED]]}
    quiet = [info for info in serving if info.life is Life.ALIVE]
    if quiet:
        text = f"the consumers that serve queue {queue} are quiet: {names(quiet)}"
        remedy = f"djjp consumers unquiet {quoted(quiet[0].name)}"
        return cause("no_consumer", text, "to have them claim again", remedy, **facts)
    living = sum(1 for info, _ in around.consumers if info.life is Life.ALIVE)
    if serving:
        ages = ", ".join(
            f"{i.name} ({i.life}, no heartbeat for {i.heartbeat_age:.0f} s)" for i in serving[:3]
        )
        text = f"no living consumer serves queue {queue}: {ages}"
    elif living:
        text = f"none of the {living} living consumers serves queue {queue}"
    else:
        text = "no consumer is alive"
    return cause("no_consumer", text, "to start one", start(queue), **facts)


# Limits and rates


def _constraints(engine: Engine, job: Job, around: Surroundings) -> list[Cause]:
    """Return the limit or rate because of which a ready job will wait once it is claimed."""
    if job.limit_key is None or not job.limit_max:
        return []
    if job.limit_per is not None:
        until = estimate.rate_frees_at(_starts(engine, job, around.now), job.limit_max)
        return [] if until is None else [_rate(job, until)]
    holders = engine.line.holders(job)
    return [_limit(job, around, holders, 0)] if len(holders) >= job.limit_max else []


def _starts(engine: Engine, job: Job, now: float) -> list[tuple[float, int]]:
    rows = RateStart.objects.using(engine.db.alias).filter(key=job.limit_key, until__gt=now)
    return list(rows.order_by("until").values_list("until", "count")[:MOST_COUNTED])


def _blocked_before(engine: Engine, job: Job) -> int:
    return engine.line.blocked_before(job)


def _limit(job: Job, around: Surroundings, holders: Sequence[Listed], before: int) -> Cause:
    key, most = job.limit_key, job.limit_max or 0
    facts = {
        "key": key,
        "limit": most,
        "held_by": [fact(each, "consumer") for each in holders[:MOST_LISTED]],
        "before": before,
    }
    alive = {info.name for info, _ in around.consumers if info.life is not Life.DEAD}
    line = f", and {before:,} jobs wait before it" if before else ""
    if len(holders) < most:
        text = f"a permit of its limit {key!r} is free, and a consumer unblocks a job within a second{line}"
        return cause("limit", text, "to see the consumers", "djjp consumers", **facts)
    held = ", ".join(f"{each.name} {each.id}" for each in holders[:3])
    more = f" and {len(holders) - 3} others" if len(holders) > 3 else ""
    permits = (
        f"the only permit of its limit {key!r} is held"
        if most == 1
        else f"all {most} permits of its limit {key!r} are held"
    )
    text = f"{permits}, by {held}{more}{line}"
    dead = [each for each in holders if each.place not in alive]
    if dead:
        text += f"; {len(dead)} of them belong to consumers that are dead, whose jobs a living one rescues"
        return cause("limit", text, "to start one", start(job.queue), **facts)
    return cause("limit", text, "to stop the first", f"djjp cancel {holders[0].id}", **facts)


def _rate_of_throttled(job: Job) -> Cause:
    assert job.run_after is not None  # noqa: S101  (a throttled job has it)
    return _rate(job, to_seconds(job.run_after))


def _rate(job: Job, until: float) -> Cause:
    facts = {
        "key": job.limit_key,
        "limit": job.limit_max,
        "seconds": job.limit_per,
        "until": shapes.time(until),
    }
    rate = f"{job.limit_max} {'start' if job.limit_max == 1 else 'starts'} in {job.limit_per:g} s"
    text = f"its rate {job.limit_key!r}, {rate}, lets it start at {at(until)}"
    return cause("rate", text, "to give it up", f"djjp cancel {job.pk}", **facts)


def _scheduled(job: Job) -> Cause:
    assert job.run_after is not None  # noqa: S101  (it is later than now)
    facts = {"until": shapes.time(job.run_after), "attempts": job.attempts}
    what = f"attempt {job.attempts + 1} is" if job.attempts else "it is"
    text = f"{what} scheduled for {at(job.run_after)}"
    return cause("scheduled", text, "to run it now", f"djjp run {job.pk}", **facts)


# Line and slots


def _line(
    engine: Engine, job: Job, around: Surroundings, found: Sequence[Cause], *, is_parent: bool
) -> list[Cause]:
    """Return what comes before a ready job: busy slots and other jobs."""
    workers = around.workers(job)
    busy = bool(workers) and all(info.is_full for info in workers)
    # A consumer of all queues takes their jobs in one order, one of some queues takes each queue's.
    in_queue = any(info.queues is not None for info in workers) or not workers
    if job.rescues:
        before = engine.line.suspects_before(job)
    else:
        before = engine.line.before(job, around.paused.keys() - {job.queue}, in_queue=in_queue)
    causes = [running.busy(job, workers)] if busy else []
    if before == 0 and not busy and found:
        return causes
    ahead = before + sum(info.claimed_ahead for info in workers)
    starts_at, rate = None, None
    if workers and not found and not job.rescues:
        if busy or before:
            rate = estimate.rate(engine, job, around.now, in_queue=in_queue, totals=not is_parent)
        starts_at = estimate.starts_at(around.now, ahead, rate, busy=busy)
    return [*causes, _in_line(job, before, starts_at, rate)]


def _in_line(job: Job, before: int, starts_at: float | None, rate: float | None) -> Cause:
    capped = before >= MOST_COUNTED
    facts = {
        "before": min(before, MOST_COUNTED),
        "capped": capped,
        # With more jobs before it than are counted, the time is the earliest one.
        "starts_at": None if capped else shapes.time(starts_at),
        "not_before": shapes.time(starts_at) if capped else None,
        "per_minute": None if rate is None else round(rate * 60, 3),
        "suspect": job.rescues > 0,
    }
    count = f"{MOST_COUNTED:,}+" if capped else f"{before:,}"
    kind = "suspect" if job.rescues else "job"
    kind = f"{kind} comes" if before == 1 else f"{kind}s come"
    text = f"{count} {kind} before it" if before else "it is the next one"
    if job.rescues:
        text += (
            f", and suspects run one at a time: it ran when a consumer died ({job.rescues} times)"
        )
    if starts_at is not None:
        when = f"{'after' if capped else 'about'} {at(starts_at)}"
        text += f"; it starts {when}" if rate else "; it starts within a moment"
    return cause(
        "line", text, "to make it faster, start another consumer", start(job.queue), **facts
    )


def _with_expiry(job: Job, around: Surroundings, found: list[Cause]) -> list[Cause]:
    """Add to the first cause when a job expires that has not started."""
    if not found or job.expires_at is None or job.attempts or not job.flags & Flag.EXPIRES:
        return found
    first, *others = sorted_by_rank(found)
    late = to_seconds(job.expires_at) <= around.now
    expires = "its time to start is over" if late else "it is cancelled unless it starts in time"
    sentence = f"{expires}, before {at(job.expires_at)}; {first.sentence}"
    facts = {**first.facts, "expires_at": shapes.time(job.expires_at)}
    return [first._replace(sentence=sentence, facts=facts), *others]
