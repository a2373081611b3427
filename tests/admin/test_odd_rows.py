"""Promise of each page, command and answer over HTTP: rows by hand do not hide it.

They have values that no code of djjp writes: texts, numbers, and times that are infinite or of no year.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import cycle, product
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.apps import apps
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import DatabaseError, models, transaction
from django.db.models import Max
from django.test import Client, override_settings
from django.utils import timezone

from djjp.admin import snapshot
from djjp.engine import Engine
from djjp.ids import new_id
from djjp.models import Job, State
from djjp.outbox.models import OutboxJob
from tests.admin.test_every_page import is_shown
from tests.admin.test_permissions import PAGES, address
from tests.api.conftest import API
from tests.consumer.test_odd_tables import job_in, rows_of
from tests.management.conftest import run
from tests.support.admin import make_attempt, make_job
from tests.support.odd_rows import key_of

ENDS = ["0001-01-01 00:00:00", "9999-12-31 23:59:59.999999"]
#: Values that no code of djjp writes, by the type of their column.
TEXTS = ["", "\x7f\u202e", "{", "null", "[]", '"x"', "1e999", "[" * 5_000]
WHOLE = [-1, 0, 32767, 2**31 - 1, 2**53, -(2**53)]
FLOATS = [-1.0, 1e308, float("inf"), float("-inf")]
#: Times of no year, and of years that begin or end elsewhere.
TIMES: dict[str, list[Any]] = {
    "postgresql": ["infinity", "-infinity", "0044-03-15 BC", "20000-01-01", *ENDS],
    "sqlite": [
        "",
        "x",
        "0000-01-01 00:00:00",
        "2026-02-30 10:00:00",
        "infinity",
        12,
        b"\xff",
        *ENDS,
    ],
}


@pytest.fixture
def client(engine: Engine) -> Iterator[Client]:
    """Yield a client of a superuser."""
    client = Client()
    client.force_login(User.objects.create_superuser("superuser"))
    yield client
    OutboxJob.objects.all().delete()
    LogEntry.objects.all().delete()
    User.objects.all().delete()
    Session.objects.all().delete()


def usual(table: str, engine: Engine) -> dict[str, Any]:
    """Return a row of a table as any other."""
    now = time.time()
    at = engine.db.to_param(now - 100)
    if table in ("djjp_queue", "djjp_consumer", "djjp_schedule", "djjp_dependency"):
        return rows_of(table, engine)
    rows: dict[str, dict[str, Any]] = {
        "djjp_attempt": {
            "job_id": Job.objects.values_list("pk", flat=True).first(),
            "number": 1,
            "consumer": "other:1:a",
            "started_at": at,
            "finished_at": at,
            "exception_class": "builtins.ValueError",
            "message": "no",
            "traceback": "ValueError: no",
        },
        "djjp_incident": {
            "id": (id := new_id()),
            "kind": "wait",
            "subject": id.hex,
            "opened_at": at,
            "seen_at": at,
            "closed_at": None,
            "facts": "{}",
        },
        "djjp_operation": {
            "id": new_id(),
            "verb": "retry",
            "argument": "",
            "filter": "state:failed",
            "state": "waiting",
            "until": new_id(),
            "matched": 1,
            "done": 0,
            "skipped": "{}",
            "requested_by": "",
            "worker": "",
            "created_at": at,
            "error": "",
        },
        "djjp_total": {
            "span": "minute",
            "starts_at": int(now) // 60 * 60,
            "queue": new_id().hex,
            "name": "test.unknown",
            **dict.fromkeys(
                (
                    *("succeeded", "failed", "retried", "cancelled", "rescued", "late"),
                    *("wait_seconds", "run_seconds"),
                ),
                1,
            ),
            "waits": "{}",
            "runs": "{}",
        },
        "djjp_depth": {
            "queue": new_id().hex,
            "minute": int(now) // 60,
            **dict.fromkeys(("ready", "scheduled", "blocked", "running", "oldest_wait"), 1),
        },
        "djjp_release": {"name": new_id().hex, "appeared_at": at},
        "djjp_tag": {"tag": "a", "job_id": new_id(), "ended": False},
    }
    return rows[table]


def insert_odd(engine: Engine, table: str, usual: Callable[[], dict[str, Any]]) -> int:
    """Insert a row for each odd value of each column that the table lets in; return their number."""
    [model] = [m for m in apps.get_app_config("djjp").get_models() if m._meta.db_table == table]
    count = 0
    for field in model._meta.concrete_fields:
        if field.column is None or field.get_internal_type() == "BigAutoField":
            continue
        for value in odd_values(engine, field):
            row = {**usual(), str(field.column): value}
            try:
                insert(engine, table, row)
            except (DatabaseError, ValueError):  # the table refuses it
                continue
            count += 1
    return count


def insert(engine: Engine, table: str, row: dict[str, Any]) -> None:
    names = ", ".join(f'"{name}"' for name in row)
    places = ", ".join(["%s"] * len(row))
    given = [key_of(engine, each) for each in row.values()]
    with transaction.atomic(engine.db.alias), engine.db.connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", given)


def odd_values(engine: Engine, field: models.Field[Any, Any]) -> list[Any]:
    """Return values for a column."""
    is_sqlite = engine.db.alias == "sqlite"
    if isinstance(field, models.CharField | models.TextField):
        return TEXTS
    if isinstance(field, models.FloatField):
        return FLOATS if is_sqlite else [*FLOATS, float("nan")]
    if isinstance(field, models.DateTimeField):
        return TIMES[engine.db.alias]
    return WHOLE if isinstance(field, models.IntegerField) else []


#: What only reads, of the commands and over HTTP.
COMMANDS = (
    "status",
    "jobs",
    "queues",
    "consumers",
    "schedules",
    "failures",
    "stats",
    "incidents",
    "operations",
)
ANSWERS = [f"/v1/{each}" for each in (*COMMANDS[1:], "health/ready")]

_TABLES = (
    *("djjp_queue", "djjp_consumer", "djjp_schedule", "djjp_attempt", "djjp_incident"),
    *("djjp_operation", "djjp_total", "djjp_depth", "djjp_release", "djjp_tag"),
)
#: Tables with the function that returns a usual row.
ODD: list[tuple[str, Callable[[Engine], dict[str, Any]]]] = [
    *((table, partial(usual, table)) for table in _TABLES),
    *(("djjp_job", partial(job_in, state)) for state in State),
]


@pytest.fixture
def odd(engine: Engine) -> None:
    """Have rows with each odd value that the tables let in."""
    make_attempt(make_job(State.FAILED, name="test.unknown"))
    for table, row in ODD:
        assert insert_odd(engine, table, partial(row, engine)) > 5, table


def test_no_odd_row_keeps_a_page_from_being_shown(odd: None, client: Client) -> None:
    statuses = {}
    urls = {key: address(key) for key, page in PAGES.items() if is_shown(page)}
    # To the west the calendar begins too late for a time of its first day, to the east it ends too early.
    zones = cycle(["America/New_York", "Asia/Tokyo"])
    for (key, url), zone in zip(urls.items(), zones, strict=False):
        snapshot.clear()
        with timezone.override(zone):
            statuses[key] = client.get(url, PAGES[key].data).status_code
    assert {key: status for key, status in statuses.items() if status != 200} == {}


def test_no_odd_row_keeps_a_command_from_an_answer(
    odd: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, *form in product(COMMANDS, ("", "--json")):
        ran = run(capsys, words, *filter(None, form))
        assert ran.code in (0, 1), (words, ran.err)
        assert ran.out, words
        assert "Traceback" not in ran.err, words


@override_settings(ROOT_URLCONF="tests.api.urls")
def test_no_odd_row_keeps_an_answer_over_http_from_being_sent(odd: None) -> None:
    api = API(arguments=True)
    ids = Job.objects.order_by("created_at").values_list("pk", flat=True)
    jobs = [
        f"/v1/jobs/{id}{page}" for id in (*ids[:3], *ids.reverse()[:3]) for page in ("", "/explain")
    ]
    for path in (*ANSWERS, *jobs):
        status, document, _ = api("GET", path)
        assert status == 200, (path, document)


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
def test_a_time_that_is_none_is_read_as_one_that_each_time_zone_has(
    engine: Engine, zone: str
) -> None:
    ids = []
    for value in TIMES[engine.db.alias]:
        row = job_in("failed", engine) | {"finished_at": value}
        ids.append(row["id"])
        insert(engine, "djjp_job", row)
    zoneinfo = ZoneInfo(zone)
    with timezone.override(zone):
        for job in Job.objects.filter(pk__in=ids):
            assert job.finished_at is not None
            assert job.finished_at.astimezone(zoneinfo).year in (1, 2, 9998, 9999), job.finished_at


def test_a_time_is_read_to_the_microsecond(engine: Engine) -> None:
    last = datetime(2026, 2, 28, 23, 59, 59, 999_999, tzinfo=UTC)
    for at in (last, last + timedelta(microseconds=1), datetime(2024, 2, 29, tzinfo=UTC)):
        job = make_job(State.FAILED, finished_at=at, run_after=None)
        assert Job.objects.values_list("finished_at", "run_after").get(pk=job.pk) == (at, None)
        assert Job.objects.filter(finished_at=at).aggregate(at=Max("finished_at")) == {"at": at}
    assert Job.objects.none().aggregate(at=Max("finished_at")) == {"at": None}
    assert Job.objects.filter(name="none").aggregate(at=Max("created_at")) == {"at": None}
