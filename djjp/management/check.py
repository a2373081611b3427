"""The command `check`: try everything that the queue needs, and print the fix for each problem."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import click
from django.core.checks import CheckMessage, run_checks
from django.db import Error as DatabaseError
from django.db import connections

from djjp import conf, engine
from djjp.consumer.process import require_queue
from djjp.management.consumers import served
from djjp.management.group import Subcommand, answer
from djjp.management.output import count, echo, span
from djjp.management.round_trip import PROBE_QUEUE, round_trip
from djjp.monitoring import consumers, incidents, shapes
from djjp.monitoring.consumers import Life
from djjp.monitoring.detection import look
from djjp.outbox import table

#: Seconds within which a wake-up must be noticed, and by which clocks can differ.
_WAKE_WITHIN, _SKEW = 2.0, 2.0
#: Seconds for which jobs may wait in an outbox.
_OUTBOX_WAIT = 10.0


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
        fix: what puts it right; None if nothing is wrong.
    """

    check: str
    text: str
    fix: str | None = None

    def document(self) -> shapes.Document:
        """Return it as a document."""
        return {
            "check": self.check,
            "ok": self.fix is None,
            "text": self.text,
            "fix": self.fix,
        }


@click.command(cls=Subcommand, needs_queue=False)
@click.option("--round-trip", "with_job", is_flag=True, help="Have a consumer run one job, too.")
def check(with_job: bool) -> None:
    """Try everything: databases, router, migrations, indexes, clocks, wake-ups, consumers, outboxes.

    Each problem is printed with its fix, and gives the exit code 1.

    \b
    Example: manage.py djjp check --round-trip
    """
    engine.run(lambda engine: None)  # raises if the queue's database does not answer
    found: list[Finding] = []
    checks = [*_CHECKS, *([_round_trip] if with_job else [])]
    for each in checks:
        found += each()
        if each is _project and any(finding.fix for finding in found):
            break  # the others depend on it
    problems = [finding for finding in found if finding.fix is not None]

    def show() -> None:
        for finding in found:
            bad = finding.fix is not None
            echo(f"{'PROBLEM' if bad else 'ok':<8} {finding.check}: {finding.text}", **_style(bad))
            if bad:
                echo(f"{'':<8} fix: {finding.fix}")
        echo()
        echo(f"{count(len(problems), 'problem')} found" if problems else "all is well")

    answer(lambda: {"ok": not problems, "checks": [each.document() for each in found]}, show)
    if problems:
        click.get_current_context().exit(1)


def _style(bad: bool) -> dict[str, str]:
    return {"fg": "red"} if bad else {}


def _project() -> Iterator[Finding]:
    """Run the system checks, then those that connect: the migrations of the queue and of outboxes."""
    if not (messages := _messages([])):
        messages = _messages([conf.db_name(), *table.outboxes()])
    for message in messages:
        text = f"({message.id}) {message.msg}"
        yield Finding("project", text, message.hint or "See docs/trouble.md.")
    if not messages:
        require_queue()
        yield Finding("project", "settings, router and migrations are right")


def _messages(aliases: list[str]) -> list[CheckMessage]:
    found = run_checks(tags=["djjp"], databases=list(dict.fromkeys(aliases)))
    return [message for message in found if not message.is_silenced()]


def _databases() -> Iterator[Finding]:
    for alias in dict.fromkeys([conf.db_name(), *table.outboxes()]):
        started = time.perf_counter()
        try:
            with connections[alias].cursor() as cursor:
                cursor.execute("SELECT 1")
                cursor.fetchone()
        except DatabaseError as error:
            text = f"{alias} does not answer: {error}"
            yield Finding("database", text, f"Start it, or correct DATABASES[{alias!r}].")
        else:
            yield Finding("database", f"{alias} answers in {span(time.perf_counter() - started)}")


def _indexes() -> Iterator[Finding]:
    problems = engine.run(lambda engine: engine.requirements.index_problems())
    for text, statement in problems:
        yield Finding("indexes", text, statement)
    if not problems:
        yield Finding("indexes", "all are there, and as the models describe them")


def _clocks() -> Iterator[Finding]:
    def compare(engine: engine.Engine) -> float:
        differences = []
        for _ in range(3):  # a slow answer says little
            before = time.time()
            theirs = engine.db.clock()
            differences.append(theirs - (before + time.time()) / 2)
        return min(differences, key=abs)

    ahead = engine.run(compare)
    beats = [consumer.heartbeat_at for consumer in consumers()]
    latest = max((shapes.seconds(beat) for beat in beats), default=0.0) - time.time()
    if abs(ahead) > _SKEW:
        text = f"that of the queue's server differs by {span(abs(ahead))} from the one here"
        yield Finding("clocks", text, "Have both machines synchronize their clocks by NTP.")
    elif latest > _SKEW:
        text = f"that of a consumer is {span(latest)} ahead of the one here"
        yield Finding("clocks", text, "Have both machines synchronize their clocks by NTP.")
    else:
        yield Finding("clocks", f"they differ by {span(abs(ahead))}")


def _wake_ups() -> Iterator[Finding]:
    """Write to the queue, and see that another connection notices it."""
    listening, noticed = threading.Event(), threading.Event()
    failed: list[BaseException] = []

    def listen() -> None:
        try:
            listener = engine.current().db.listener()
            listener.woken()
            listening.set()
            until = time.monotonic() + _WAKE_WITHIN
            while time.monotonic() < until and not listener.woken():
                time.sleep(min(0.01, listener.interval(0.0)))
            if time.monotonic() < until:
                noticed.set()
        except DatabaseError as error:
            failed.append(error)
        finally:
            listening.set()
            connections[conf.db_name()].close()

    thread = threading.Thread(target=listen)
    thread.start()
    listening.wait(_WAKE_WITHIN + (engine.current().db.connect_timeout() or 0.0))
    started = time.perf_counter()
    now = time.time()
    engine.run(lambda engine: engine.queues.pause(PROBE_QUEUE, now, now))
    noticed.wait(_WAKE_WITHIN)
    took = time.perf_counter() - started
    thread.join()
    engine.run(lambda engine: engine.queues.resume(PROBE_QUEUE, now))
    if noticed.is_set():
        text = f"a write is noticed by another connection within {span(took)}"
        yield Finding("wake-ups", text)
    else:
        reason = f": {failed[0]}" if failed else ""
        yield Finding(
            "wake-ups",
            f"no connection has noticed a write within {span(_WAKE_WITHIN)}{reason}; consumers poll",
            "Connect to the server itself, not through a pooler; or set DJJP['listen'] to False.",
        )


def _consumers() -> Iterator[Finding]:
    found = consumers()
    if not any(each.life is Life.ALIVE for each in found):
        text = "none is alive" if found else "none is registered"
        yield Finding("consumers", text, "Start one: python manage.py start_consumer")
    for each in found:
        text = f"{each.name} serves {served(each)}; its last heartbeat was {span(each.heartbeat_age)} ago"
        if each.life is Life.ALIVE:
            yield Finding("consumers", text)
        else:
            fix = f"See what it does: python manage.py djjp consumers stack {each.name}"
            yield Finding("consumers", f"{text}: it is {each.life}", fix)


def _incidents() -> Iterator[Finding]:
    look()
    found = incidents(open_only=True)
    for each in found:
        yield Finding("incidents", each.sentence, each.remedy)
    if not found:
        yield Finding("incidents", "none is open")


def _outboxes() -> Iterator[Finding]:
    for alias in table.outboxes():
        try:
            waiting, aside = table.count_waiting(alias), table.rows_set_aside(alias)
            late = table.waiting(alias, None, 1, grace=_OUTBOX_WAIT)
        except DatabaseError as error:
            text = f"that of {alias} cannot be read: {error}"
            yield Finding("outbox", text, f"Start the database, or correct DATABASES[{alias!r}].")
            continue
        if aside:
            text = f"the queue refuses {count(len(aside), 'job')} of {alias}: {aside[0].problem}"
            yield Finding(
                "outbox",
                text,
                "Have them relayed again, or delete them: python manage.py djjp outbox",
            )
        if late:
            text = f"{count(waiting, 'job')} wait in that of {alias}, the first for over {span(_OUTBOX_WAIT)}"
            yield Finding(
                "outbox", text, "Start a consumer that reaches it: python manage.py start_consumer"
            )
        if not aside and not late:
            yield Finding("outbox", f"{count(waiting, 'job')} in that of {alias}")


def _round_trip() -> Iterator[Finding]:
    outcome = round_trip()
    yield Finding("round trip", outcome.text, outcome.fix)


_CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _project,
    _databases,
    _indexes,
    _clocks,
    _wake_ups,
    _consumers,
    _outboxes,
    _incidents,
)
