"""The table `pages`: the time for each page of the admin on a full queue, and for the list with each filter."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from benchmarks.facts import SINGLE, newest_of, pipeline_id
from benchmarks.report import Column, Spread, progress

COLUMNS = [
    Column("database", "database"),
    Column("page", "page"),
    Column("statements", "statements", "d"),
    Column("CPU ms", "cpu_ms", ".1f"),
    Column("ms", "ms", ".1f"),
    Column("longest ms", "longest_ms", ".1f"),
]
PREFIX = "/admin/djjp/"


def measure(alias: str, samples: int) -> list[dict[str, Any]]:
    """Return a row for each page on the queue of this alias, as Django's test client gets it.

    The CPU time is that of this process, and so with SQLite's and without the server of PostgreSQL. On a busy
    machine it shows more than the duration.
    """
    from django.db import connections

    from djjp.admin import snapshot

    sent = 0

    def count(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        nonlocal sent
        sent += 1
        return execute(sql, params, many, context)

    client = reader()
    for _ in range(3):  # the first dashboards open the incidents of a queue without consumers
        snapshot.clear()
        client.get(PREFIX)
    rows = []
    for address in addresses():
        took, busy = [], []
        for _ in range(samples):
            sent = 0
            snapshot.clear()  # what is kept for all dashboards
            with connections[alias].execute_wrapper(count):
                began, cpu = time.perf_counter(), time.process_time()
                answer = client.get(PREFIX + address)
                took.append((time.perf_counter() - began) * 1000)
                busy.append((time.process_time() - cpu) * 1000)
            if answer.status_code != 200:
                raise RuntimeError(f"{PREFIX}{address} answered {answer.status_code}")
        progress(f"    /{address}: {statistics.median(took):.1f} ms, {max(took):.1f} at most")
        rows.append(
            {
                "database": alias,
                "page": f"/{address}",
                "statements": sent,
                "cpu_ms": Spread.of(busy),
                "ms": Spread.of(took),
                "longest_ms": max(took),
            }
        )
    return rows


def reader() -> Any:
    """Return a client of a user who sees all pages."""
    from django.contrib.auth import get_user_model
    from django.test import Client

    users: Any = get_user_model()._default_manager
    user = users.filter(username="reader").first() or users.create_superuser("reader")
    client = Client()
    client.force_login(user)
    return client


def addresses() -> Iterator[str]:
    """Yield the addresses of the pages below `PREFIX`."""
    from djjp.models import State

    yield from ("", "?span=24h", "?span=7d")
    pipeline = pipeline_id()
    filters = ["", *(f"state:{state}" for state in State), *SINGLE]
    for text in filters:
        query = urlencode({"q": text.format(pipeline=pipeline)} if text else {})
        yield f"job/?{query}" if query else "job/"
    for verb, text in (("retry", "state:failed"), ("cancel", ""), ("delete", "name:nothing.*")):
        yield f"job/bulk/{verb}/?{urlencode({'q': text})}"
    for text in ("", "queue:q7", "exception:Nothing"):
        yield f"job/failures/?{urlencode({'q': text})}"
    yield "operation/"
    for state in State:
        yield f"job/{newest_of(state)}/change/"
    yield from ("job/failures/", "job/failures/?name=shop.job7", "job/names/")
    yield from ("job/names/shop.job7/", "job/names/benchmarks.jobs.noop/")
    for page in ("job/names/", "job/names/shop.job7/", "queue/q7/change/"):
        yield from (f"{page}?span=1h", f"{page}?span=7d")
    yield from (f"job/pipelines/{pipeline}/", f"job/pipelines/{pipeline}/retry/")
    yield from ("job/bulk/retry/?state=failed", "job/bulk/cancel/?state=ready", "job/bulk/delete/")
    yield from ("queue/", "queue/q7/change/", "consumer/", "incident/", "operation/", "schedule/")
