"""A row by hand, or of another version, with NULL or an odd value in any column: it harms no other job."""

from __future__ import annotations

import uuid
from functools import partial
from typing import Any

import pytest

from djjp import run_many
from djjp.consumer.rescue import rescue, rescue_child
from djjp.engine import Engine, Liveness
from djjp.models import FINISHED, Flag, Job
from tests.project.shop.jobs import add
from tests.support.consumers import consuming, drain
from tests.support.engine_calls import register_consumer
from tests.support.odd_rows import without_constraints
from tests.support.processes import eventually

COLUMNS = [field.column for field in Job._meta.concrete_fields]
#: The columns that PostgreSQL keeps in types of its own, with values that they can have and no job should.
ODD: dict[str, list[Any]] = {
    "smallint": [-32768, 32767],
    "integer": [-2147483648, 2147483647],
    "bigint": [-(2**63), 2**63 - 1],
    "double precision": ["NaN", "Infinity", -1.0],
    "timestamp with time zone": ["infinity", "-infinity", "0001-01-01 BC"],
    "text": ["", "\x7f", "{", "null", "[]"],
    "character varying": ["", "\x7f"],
    "uuid": ["00000000-0000-0000-0000-000000000000"],
    "boolean": [True],
}
#: SQLite has no types: whatever is written is kept.
UNTYPED = [b"\xff\x00", "text", "", -1, 3.5, 2**63 - 1, b""]
#: What a ready row must have for a column to be read.
FLAGS = {
    "limit_key": Flag.LIMITED,
    "limit_max": Flag.LIMITED,
    "limit_per": Flag.RATE_LIMITED,
    "expires_at": Flag.EXPIRES,
    "unique_key": Flag.UNTIL_START,
    "input": Flag.TAKES_INPUT | Flag.ON_FAILURE,
    "pipeline": Flag.TAKES_INPUT,
}


def spoil(engine: Engine, job: uuid.UUID, values: dict[str, Any]) -> None:
    key = job.hex if engine.db.alias == "sqlite" else job
    changes = ", ".join(f"{column} = %s" for column in values)
    with engine.db.connection.cursor() as cursor:
        cursor.execute(f"UPDATE djjp_job SET {changes} WHERE id = %s", [*values.values(), key])


def odd_values(engine: Engine, column: str) -> list[Any]:
    if engine.db.alias == "sqlite":
        return [None, *UNTYPED]
    with engine.db.connection.cursor() as cursor:
        cursor.execute(
            "SELECT data_type FROM information_schema.columns"
            " WHERE table_name = 'djjp_job' AND column_name = %s",
            [column],
        )
        (kind,) = cursor.fetchone()
    return [*([] if column == "id" else [None]), *ODD[kind]]


@pytest.mark.parametrize("column", COLUMNS)
def test_a_ready_row_with_an_odd_value_harms_no_other_job(engine: Engine, column: str) -> None:
    with without_constraints(engine, "djjp_job"):
        odd = []
        for value in odd_values(engine, column):
            handle = add.using(priority=5).run_later(1)
            values: dict[str, Any] = {column: value}
            if column in FLAGS:
                values["flags"] = FLAGS[column]
            if column == "limit_max":
                values["limit_key"] = "odd"
            if column == "limit_per":
                values |= {"limit_key": f"rate of {handle.id}", "limit_max": 1}
            spoil(engine, handle.id, values)
            odd.append(handle.id)
        with consuming(2) as consumer:
            for _ in range(2):
                others = run_many(add.bind(number) for number in range(20))
                ids = [handle.id for handle in others]
                eventually(partial(have_succeeded, ids))
            given = zip(odd, odd_values(engine, column), strict=True)
            odd = [id for id, value in given if ends(column, value)]
            if column not in {"id", "state"}:
                # Each has ended: it ran all the same, or failed with the reason.
                eventually(lambda: ended(engine, odd) == len(odd))
            eventually(lambda: len(consumer._ledger) == 0)


def ends(column: str, value: Any) -> bool:
    """Return whether a job with this value must end; the others wait where they harm nobody."""
    if column == "name":  # another consumer may know these
        return value is None
    return True


def have_succeeded(ids: list[uuid.UUID]) -> bool:
    return Job.objects.filter(pk__in=ids, state="succeeded").count() == len(ids)


def ended(engine: Engine, ids: list[uuid.UUID]) -> int:
    """Return the number of these jobs that have ended, by what no odd value can hide."""
    keys = [id.hex for id in ids] if engine.db.alias == "sqlite" else ids
    with engine.db.connection.cursor() as cursor:
        marks = ", ".join(["%s"] * len(keys))
        states = ", ".join(f"'{state}'" for state in FINISHED)
        cursor.execute(
            f"SELECT count(*) FROM djjp_job WHERE id IN ({marks}) AND state IN ({states})", keys
        )
        (count,) = cursor.fetchone()
    return int(count)


def test_consumers_with_odd_names_keep_no_other_from_being_rescued(engine: Engine) -> None:
    names = ["no token", "", "a/../../b:1:c", "host:1:token"]
    if engine.db.alias == "sqlite":
        names.append("host:1:a\0b")
    handles = [add.run_later(number) for number in range(len(names))]
    for handle, consumer in zip(handles, names, strict=True):
        running = {"state": "running", "consumer": consumer, "attempts": 1, "claim": 1}
        Job.objects.filter(pk=handle.id).update(**running)
        register_consumer(engine, consumer, locked=False)

    assert rescue_child("token") == 1
    for peer in engine.consumers.peers():
        assert engine.consumers.liveness(peer) is Liveness.UNKNOWN
        assert rescue(engine, peer).jobs == 1
    drain()
    assert set(Job.objects.values_list("state", "rescues")) == {("succeeded", 1)}
