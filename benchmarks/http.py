"""The table `http`: enqueues over HTTP, next to bare views of Django on the same server."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from typing import Any

from benchmarks.environment import ROOT, empty, on
from benchmarks.report import Column, Section, Spread, progress

#: Clients that send one request after the other, each on its connection, and threads of the server.
CLIENTS = 4
_COMES_UP_WITHIN = 60.0

_COLUMNS = [
    Column("database", "database"),
    Column("way", "way"),
    Column("requests", "requests", ",d"),
    Column("requests/s", "requests_per_second", ",.0f"),
    Column("p50 ms", "p50_ms", ".1f"),
    Column("p99 ms", "p99_ms", ".1f"),
    Column("of bare", "ratio", ".3f"),
]

_BARE = "a bare view"
#: The ways in the order of the table: the address, and whether each request has an Idempotency-Key.
_WAYS = {
    _BARE: ("/bare", False),
    "a view with run_later": ("/enqueue", False),
    "POST /v1/jobs": ("/djjp/v1/jobs", False),
    "POST /v1/jobs, Idempotency-Key": ("/djjp/v1/jobs", True),
}


def measure(databases: Sequence[str], requests: int, repeat: int) -> Section:
    from djjp import tokens

    rows: list[dict[str, Any]] = []
    for alias in databases:
        seconds: dict[str, list[float]] = {way: [] for way in _WAYS}
        took: dict[str, list[list[float]]] = {way: [] for way in _WAYS}
        with on(alias), _serving(alias) as port:
            _, token = tokens.create(f"bench-{time.time_ns()}", "enqueue")
            for number in range(
                repeat + 1
            ):  # the first round finds cold caches, and does not count
                progress(f"http: {requests:,} requests, {alias}, {number} of {repeat}")
                for way in _WAYS:
                    empty(alias)
                    count = requests if number else min(requests, 50)
                    whole, each = _round(port, token, way, count)
                    if number:
                        seconds[way].append(whole)
                        took[way].append(each)
        rates = {way: Spread.of([requests / s for s in each]) for way, each in seconds.items()}
        rows += [
            {
                "database": alias,
                "way": way,
                "requests": requests,
                "requests_per_second": rates[way],
                "p50_ms": Spread.of([statistics.median(each) for each in took[way]]),
                "p99_ms": Spread.of([_p99(each) for each in took[way]]),
                "ratio": None if way == _BARE else rates[way].ratio(rates[_BARE]),
            }
            for way in _WAYS
        ]
    title = f"Enqueue over HTTP: gunicorn, one worker with {CLIENTS} threads, {CLIENTS} clients"
    return Section("http", title, _COLUMNS, rows)


def _p99(samples: list[float]) -> float:
    return sorted(samples)[max(0, -(-len(samples) * 99 // 100) - 1)]


def _round(port: int, token: str, way: str, requests: int) -> tuple[float, list[float]]:
    """Return the seconds of all requests, and the milliseconds of each."""
    took: list[float] = []
    barrier = threading.Barrier(CLIENTS + 1)
    clients = [
        threading.Thread(
            target=_client, args=[port, token, way, range(first, requests, CLIENTS), barrier, took]
        )
        for first in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    barrier.wait()
    began = time.perf_counter()
    for client in clients:
        client.join()
    whole = time.perf_counter() - began
    if len(took) != requests:
        raise RuntimeError(f"{way}: {requests - len(took)} of {requests} requests failed")
    return whole, took


def _client(
    port: int,
    token: str,
    way: str,
    numbers: Sequence[int],
    barrier: threading.Barrier,
    took: list[float],
) -> None:
    path, has_key = _WAYS[way]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.connect()
        barrier.wait()
        for number in numbers:
            body = json.dumps({"name": "benchmarks.jobs.noop", "args": [number]})
            key = {"Idempotency-Key": f"{number}-{time.time_ns()}"} if has_key else {}
            began = time.perf_counter()
            connection.request("POST", path, body, headers | key)
            response = connection.getresponse()
            response.read()
            if response.status != 201:
                raise RuntimeError(f"{path} answered {response.status}")
            took.append((time.perf_counter() - began) * 1000)


@contextmanager
def _serving(alias: str) -> Iterator[int]:
    """Run the web server on the queue of one database; yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "gunicorn", "django.core.wsgi:get_wsgi_application()"),
            *(f"--bind=127.0.0.1:{port}", "--worker-class=gthread", f"--threads={CLIENTS}"),
            *("--keep-alive=60", "--log-level=warning"),
        ],
        cwd=ROOT,
        env={**os.environ, "DJJP_BENCH_ALIAS": alias, "DJJP_BENCH_HTTP": "1"},
    )
    try:
        _wait_until_it_answers(server, port)
        yield port
    finally:
        server.terminate()
        server.wait(60)


def _wait_until_it_answers(server: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + _COMES_UP_WITHIN
    while True:
        try:
            with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
                connection.request("GET", "/djjp/v1/health/live")
                if connection.getresponse().status == 200:
                    return
        except OSError:
            if server.poll() is not None or time.monotonic() > until:
                raise
        time.sleep(0.05)
