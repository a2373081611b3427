"""One row delays no other, whatever is wrong with it, and it is kept for a person."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connections, transaction

import djjp.engine
from djjp import get_job, group
from djjp.engine import Engine
from djjp.ids import new_id
from djjp.jobs import enqueue
from djjp.models import Job
from djjp.outbox import relay, serialization, table
from djjp.outbox.relay import Sweep
from tests.outbox.conftest import Application, queued, waiting
from tests.outbox.test_relay import leave
from tests.outbox.test_sweeper import sweeping
from tests.project.shop.jobs import add, echo
from tests.support.factories import new_job
from tests.support.odd_rows import rewrite
from tests.support.processes import eventually

#: What can be wrong with a row: fields of its text that no code of djjp has written.
ODD: dict[str, dict[str, Any]] = {
    "a time beyond all years": {"run_after": 1e300, "state": "scheduled"},
    "the year 9999": {"run_after": 253402300799.0, "state": "scheduled"},
    "a time before 1970": {"run_after": -1e12},
    "no number": {"created_at": float("nan")},
    "a name with NUL": {"name": "a\0b"},
    "half a surrogate": {"queue": "a\ud800"},
    "a name that is too long": {"name": "n" * 201},
    "a queue that is too long": {"queue": "q" * 101},
    "a key that is too long": {"unique_key": "k" * 201},
    "a priority that is too large": {"priority": 40_000},
    "flags that are too large": {"flags": 2**40},
    "a number that is no number": {"waits_for": "many"},
    "an unknown state": {"state": "running"},
    "no queue": {"queue": None},
    "no flags": {"flags": None},
    "no count of parents": {"waits_for": None},
    "no arguments": {"arguments": None},
    "arguments with NUL": {"arguments": "a\0"},
    "another id": {"id": new_id().hex},
    "a rate without end": {"limit_per": float("inf")},
    "a limit without a key": {"flags": 4},
    "an expiry without a time": {"flags": 32},
    "no time, though it is scheduled": {"state": "scheduled"},
}


def leave_text(text: str, alias: str = "default") -> UUID:
    """A row with a text as no code writes it, between its good neighbours."""
    (id,) = leave(1, alias)
    table._all(alias).filter(pk=id).update(job=text)
    return id


def leave_odd(alias: str = "default", **fields: Any) -> UUID:
    (id,) = leave(1, alias)
    row = table._all(alias).get(pk=id)
    row.job = json.dumps(json.loads(row.job) | fields)
    row.save(using=alias)
    return id


@pytest.mark.parametrize("fields", ODD.values(), ids=list(ODD))
def test_a_row_that_the_queue_could_not_hold_is_set_aside_and_the_others_go_on(
    engine: Engine, caplog: pytest.LogCaptureFixture, fields: dict[str, Any]
) -> None:
    (before,) = leave()
    odd = leave_odd(**fields)
    (behind,) = leave()

    assert relay.sweep() == 2
    assert relay.sweep() == 0

    assert queued() == [before, behind]
    assert waiting() == [odd]
    (line,) = [record.getMessage() for record in caplog.records if record.name == "djjp.outbox"]
    assert f"job {odd} in the outbox of 'default' is refused by the queue and set aside" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[" * 100_000,
        "{}",
        "null",
        '{"id": "%s", "jobs": [], "edges": []}',
        '{"id": 7, "edges": 7}',
        "\N{SNOWMAN}",
    ],
    ids=range(8),
)
def test_a_text_that_is_no_job_is_set_aside(engine: Engine, text: str) -> None:
    odd = leave_text(text)
    table._all("default").filter(pk=odd).update(job=text.replace("%s", odd.hex))
    (good,) = leave()
    assert relay.sweep() == 1
    assert (queued(), waiting()) == ([good], [odd])
    assert get_job(odd).reason


def test_a_damaged_pipeline_is_set_aside_whole(engine: Engine) -> None:
    with transaction.atomic():
        handle = group(add.bind(1), add.bind(2)).run_later()
        row = table._all("default").get(pk=handle.id)
        fields = json.loads(row.job)
        fields["edges"][0][2] = "not an index"
        row.job = json.dumps(fields)
        row.save()
    (good,) = leave()
    relay.sweep()
    assert (queued(), waiting()) == ([good], [handle.id])


@pytest.mark.parametrize("key", ["no id", "0" * 31, "", "01A226AF2610793DBD052DD4F2320383"])
def test_a_row_whose_id_is_none_is_set_aside(engine: Engine, key: str) -> None:
    """SQLite takes any value in any column."""
    with connections["default"].cursor() as cursor:
        cursor.execute(
            "INSERT INTO djjp_outbox (id, job, created_at, cancelled) VALUES (%s, '{}', 'then', 7)",
            [key],
        )
    ids = leave(2)
    assert relay.sweep() == 2
    assert queued() == ids
    (row,) = table.rows_set_aside("default")
    assert str(row.key) == key
    table.drop("default", row.key)
    assert table.rows_set_aside("default") == []


@pytest.mark.parametrize("value", ["2", "'text'", "''", "X'FF00'", "CAST(X'FF' AS TEXT)", "NULL"])
def test_a_row_that_is_neither_cancelled_nor_not_leaves_the_outbox(
    engine: Engine, value: str, loose_outbox: None
) -> None:
    ids = leave(2)
    with connections["default"].cursor() as cursor:
        cursor.execute(f"UPDATE djjp_outbox SET cancelled = {value} WHERE id = %s", [ids[0].hex])
    assert relay.sweep() == 2
    assert (queued(), waiting()) == (ids, [])


@pytest.mark.parametrize("value", ["CAST(X'FF' AS TEXT)", "NULL"])
def test_a_row_whose_id_cannot_even_be_read_delays_no_other(
    engine: Engine, value: str, loose_outbox: None
) -> None:
    ids = leave(3)
    with connections["default"].cursor() as cursor:
        cursor.execute(f"UPDATE djjp_outbox SET id = {value} WHERE id = %s", [ids[1].hex])
    assert relay.sweep() == 2
    assert queued() == [ids[0], ids[2]]


@pytest.fixture
def loose_outbox() -> Iterator[None]:
    """Let the columns of the outbox be NULL, as in a table of another version."""
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT sql FROM sqlite_master WHERE name = 'djjp_outbox'")
        (sql,) = cursor.fetchone()
        rewrite(cursor, "djjp_outbox", sql.replace(" NOT NULL", ""))
    yield
    with connections["default"].cursor() as cursor:
        cursor.execute("DELETE FROM djjp_outbox")
        rewrite(cursor, "djjp_outbox", sql)
    connections["default"].close()


def test_a_text_that_cannot_even_be_read_delays_no_other(engine: Engine) -> None:
    """Its bytes are no text, for which the driver would raise an error for the whole page."""
    ids = leave(4)
    with connections["default"].cursor() as cursor:
        cursor.execute(
            "UPDATE djjp_outbox SET job = CAST(x'ff' AS TEXT) WHERE id = %s", [ids[1].hex]
        )
    outbox = Sweep("default")

    assert outbox.run() == 3
    assert queued() == [ids[0], *ids[2:]]
    for _ in range(2):
        ids += leave(1)
        assert outbox.run() == 1

    assert [row.key for row in table.rows_set_aside("default")] == [ids[1]]
    ids += leave(1)
    outbox.run()
    assert queued() == [ids[0], *ids[2:]]


class Refusing:
    """A queue that does not take some jobs, with an error that looks like an outage."""

    def __init__(self, *ids: UUID, error: Exception | None = None) -> None:
        self.ids = set(ids)
        self.error = error or OperationalError("canceling statement due to statement timeout")
        self.calls = 0
        self.is_away = False

    def __call__(self, verb: Callable[[Engine], Any]) -> Any:
        self.calls += 1
        engine = djjp.engine.current()
        if self.is_away:
            raise self.error
        with engine.db.transaction():
            result = verb(engine)
            if self.ids & set(queued()):
                raise self.error
        return result


class Flapping:
    """A queue that answers once, and then is away."""

    def __init__(self, call: Refusing) -> None:
        self.call = call

    def __call__(self, verb: Callable[[Engine], Any]) -> Any:
        result = self.call(verb)
        self.call = Refusing()
        self.call.is_away = True
        return result


@pytest.mark.parametrize("error", [OperationalError("timeout"), RuntimeError("a bug"), OSError(28)])
def test_jobs_that_fail_like_an_outage_delay_no_others_and_are_set_aside_in_the_end(
    engine: Engine, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    ids = leave(40)
    bad = [ids[3], *ids[20:24]]
    call = Refusing(*bad, error=error)
    outbox = Sweep("default", call)

    assert outbox.run() == 35
    assert queued() == [id for id in ids if id not in bad]
    for _ in range(2):
        leave(1)
        assert outbox.run() == 1

    assert {row.key for row in table.rows_set_aside("default")} == set(bad)
    lines = [record.getMessage() for record in caplog.records if "set aside" in record.getMessage()]
    assert len(lines) == len(bad)
    assert waiting() == sorted(bad)


def test_an_outage_sets_nothing_aside(engine: Engine) -> None:
    """Neither one from the start, nor one that begins again and again amid a sweep."""
    call = Refusing()
    outbox = Sweep("default", call)
    ids = leave(20)
    call.is_away = True
    for _ in range(5):
        with pytest.raises(OperationalError):
            outbox.run()
    call.is_away = False
    assert outbox.run() == 20

    outbox._rows = 1
    for _ in range(5):
        ids += leave(2)
        flapping = Flapping(call)
        outbox._call, outbox._rows = flapping, 1
        with pytest.raises(OperationalError):
            outbox.run()
        assert waiting() == ids[-1:]
        outbox._call = call
        outbox.run()
    assert queued() == ids


def test_the_only_row_is_tried_for_ever(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing proves that the queue takes other rows."""
    (id,) = leave()
    call = Refusing(id)
    outbox = Sweep("default", call)
    for _ in range(10):
        with pytest.raises(OperationalError):
            outbox.run()
    (line,) = [record.getMessage() for record in caplog.records if record.name == "djjp.outbox"]
    assert f"job {id} in the outbox of 'default' is not relayed yet" in line
    call.ids.clear()
    assert outbox.run() == 1


def test_a_failure_that_takes_long_is_reported_at_once_and_narrowed_down_later(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = leave(8)
    monkeypatch.setattr(relay, "MAX_READ_AGE", 0.5)
    slow = Refusing(ids[0])

    def call(verb: Callable[[Engine], Any]) -> Any:
        try:
            return slow(verb)
        except OperationalError:
            time.sleep(0.6)
            raise

    outbox = Sweep("default", call)

    def run() -> None:
        """Sweep, and again where what was read has become too old, as on a busy machine."""
        for _ in range(20):
            slow.calls = 0
            with suppress(relay.Stale):
                outbox.run()
                return

    for _ in range(2):
        with pytest.raises(OperationalError):
            run()
        assert slow.calls == 1
    for _ in range(3):
        with suppress(OperationalError):
            run()
    assert queued() == ids[1:]


# Size


def test_pages_are_bounded_by_bytes_as_well(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "PAGE_SIZE", 4000)
    read: list[int] = []
    original = table.read

    def counted(alias: str, ids: Sequence[UUID]) -> list[table.Row]:
        read.append(len(ids))
        return original(alias, ids)

    monkeypatch.setattr(table, "read", counted)
    with transaction.atomic():
        for size in (10, 10, 2000, 2000, 9000, 10):
            echo.run_later("x" * size)
    assert read == [3, 1, 1, 1]
    ids = leave(3)
    read.clear()
    relay.sweep()
    assert read == [3]
    assert len(queued()) == 6 + len(ids)


def test_rows_that_take_long_to_parse_are_relayed_nevertheless(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a page of pipelines with 10,000 jobs each; another relay may have been there meanwhile."""
    monkeypatch.setattr(relay, "MAX_READ_AGE", 1.5)
    ids = leave(3)
    parse = serialization.from_text

    def slowly(text: str) -> Any:
        if str(ids[0].hex) in text:
            time.sleep(1.6)
            monkeypatch.setattr(serialization, "from_text", parse)
            relay.relay("default", [ids[1]])
            Job.objects.all().delete()
            djjp.engine.run(lambda engine: engine.receipts.delete([ids[1]]))
        return parse(text)

    monkeypatch.setattr(serialization, "from_text", slowly)
    relay.sweep()
    assert queued() == [ids[0], ids[2]]


def test_many_large_pipelines_are_swept(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enqueue, "_paused_until", float("inf"))
    monkeypatch.setattr(relay, "PAGE_SIZE", 1_000_000)
    for _ in range(3):
        with transaction.atomic():
            group(*(add.bind(i) for i in range(2000))).run_later()
    assert relay.sweep() == 3
    assert Job.objects.count() == 6000


# For a person


def test_the_command_lists_what_is_set_aside_and_relays_or_deletes_it(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    first, other = leave_odd(queue="q" * 101), leave_odd(priority=99_999)
    relay.sweep()
    call_command("djjp", "outbox")
    listed = capsys.readouterr().out
    assert "outbox of default: 0 jobs wait" in listed
    for id, why in ((first, "of 101 characters"), (other, "priority is 99999")):
        (line,) = [line for line in listed.splitlines() if str(id) in line]
        assert why in line
    assert get_job(first).reason is not None

    row = table._all("default").get(pk=first)
    row.job = serialization.to_text(new_job(id=first))
    row.save()
    call_command("djjp", "outbox", "--retry", str(first), "--delete", str(other))
    assert relay.sweep() == 1
    assert (queued(), waiting()) == ([first], [])

    with pytest.raises(CommandError, match=f"not set aside in any outbox: {other}"):
        call_command("djjp", "outbox", "--delete", str(other))


def test_sweepers_of_several_consumers_report_the_row_once(
    engine: Engine, application: Application, caplog: pytest.LogCaptureFixture
) -> None:
    odd = leave_odd(application.alias, name="n" * 201)
    good = leave(2, application.alias)
    with sweeping([application.alias]), sweeping([application.alias]):
        eventually(lambda: queued() == good)
        good += leave(2, application.alias)
        eventually(lambda: queued() == good)
        # A page's good rows can be in the queue before its odd one is set aside.
        aside = table.rows_set_aside
        eventually(lambda: [row.key for row in aside(application.alias)] == [odd])
    lines = [record.getMessage() for record in caplog.records if "set aside" in record.getMessage()]
    assert len(lines) == 1
