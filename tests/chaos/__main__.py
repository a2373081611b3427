"""`python -m tests.chaos`: no job is lost and none runs twice, whatever fails; the figures show it.

The program exits with 1 when a promise was broken, and keeps the consumers' log then.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import quantiles
from typing import Any

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.chaos.settings"


def main() -> int:
    options = _options()
    home = tempfile.mkdtemp(prefix="djjp-chaos-")
    os.environ["DJJP_TEST_HOME"] = home
    broken = False
    for database in options.databases:
        with _queue(database) as (engine, troubles):
            broken |= (
                _rescue_times(engine, options)
                if options.rescue_times
                else _run(engine, troubles, options)
            )
    if broken:
        print(f"\nBROKEN; the log of the consumers is in {home}")
        return 1
    shutil.rmtree(home)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--consumers", type=int, default=4)
    parser.add_argument("--rate", type=float, default=200, help="jobs to enqueue in a second")
    parser.add_argument("--seconds-between-kills", type=float, default=1)
    parser.add_argument(
        "--seconds-between-troubles",
        type=float,
        default=4,
        help="locks, lost sessions, restarts, frozen consumers, full disks",
    )
    parser.add_argument(
        "--seconds-under-fire",
        type=float,
        default=10,
        help="the time for which kills and troubles continue after the last enqueue",
    )
    parser.add_argument(
        "--databases", type=lambda text: text.split(","), default="sqlite,postgresql"
    )
    parser.add_argument(
        "--rescue-times",
        type=int,
        nargs="?",
        const=50,
        metavar="KILLS",
        help="only measure the time until a killed consumer's job runs again",
    )
    return parser.parse_args()


@contextmanager
def _queue(alias: str) -> Iterator[tuple[Any, Any]]:
    """Create the queue on one database; yield its engine and the troubles of that database."""
    import django

    from tests.support.postgres import Server
    from tests.support.proxy import Proxy

    server = Server() if alias == "postgresql" else None
    if server is not None:
        os.environ["DJJP_TEST_SERVER_URL"] = server.url
    os.environ["DJJP_TEST_ALIAS"] = alias
    django.setup()

    from django.conf import settings
    from django.core.management import call_command
    from django.db import connections

    from djjp.databases import queue_database
    from djjp.engine import current
    from tests.chaos import outages

    settings.DJJP = {**settings.DJJP, "db_name": alias}
    if server is not None:
        connections.settings[alias].update(queue_database(server.url))
    for database in ("default", alias):
        call_command("migrate", database=database, verbosity=0)
    try:
        if server is None:
            yield current(), outages.of_sqlite(str(settings.HOME / "queue.sqlite3"))
        else:
            proxy = Proxy(server.url)
            os.environ["DJJP_TEST_SERVER_URL"] = proxy.url  # of the consumers
            yield current(), outages.of_postgresql(server, proxy)
    finally:
        connections.close_all()
        if server is not None:
            server.close()


def _run(engine: Any, troubles: Any, options: argparse.Namespace) -> bool:
    from tests.chaos.run import Plan, run

    plan = Plan(
        options.jobs,
        options.consumers,
        options.rate,
        options.seconds_between_kills,
        options.seconds_between_troubles,
        options.seconds_under_fire,
    )
    verdict = run(engine, troubles, plan)
    print(f"\n{engine.db.alias}")
    for name, value in verdict.figures.items():
        print(f"  {name:32}{value:>8}")
    for name, value in verdict.broken.items():
        print(f"  {name:32}{value:>8}{'   BROKEN' if value else ''}")
    for name, examples in verdict.examples.items():
        print(f"  {name}: {', '.join(map(str, examples))}")
    sys.stdout.flush()
    return any(verdict.broken.values())


def _rescue_times(engine: Any, options: argparse.Namespace) -> bool:
    from tests.chaos.rescue_times import rescue_times

    times = rescue_times(engine, options.rescue_times)
    cuts = quantiles(times, n=100, method="inclusive")
    print(
        f"{engine.db.alias:12} p50 {cuts[49]:.2f} s   p99 {cuts[98]:.2f} s   of {len(times)} kills"
    )
    sys.stdout.flush()
    return cuts[98] >= 2


if __name__ == "__main__":
    sys.exit(main())
