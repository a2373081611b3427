"""The traffic of the demo's site: consumers, jobs that keep coming, and an incident that comes and goes.

This module can be imported only after Django is set up.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from django.db import connections, transaction

from djjp import chain, group, queues
from example_multidb.progress import consumer
from example_multidb.shop import jobs

#: The options of the consumers of the site.
SITE = ("--settings", "example_multidb.project.site")
#: Seconds for which the queue "mail" is served, and for which it is not: an incident opens, and closes again.
SERVED, UNSERVED = 150.0, 60.0


@contextmanager
def traffic() -> Iterator[None]:
    """Run consumers and enqueue jobs during the block; both have ended after it."""
    ended = threading.Event()
    queues.pause("newsletter")
    threads = [threading.Thread(target=work, args=[ended]) for work in (_enqueue, _serve_mail)]
    with consumer("--exclude-queues", "mail", *SITE):
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join()


def _enqueue(ended: threading.Event) -> None:
    """Enqueue a few jobs each second."""
    try:
        for order in itertools.count(4711):
            _take_order(order)
            if ended.wait(random.uniform(0.3, 1.2)):  # noqa: S311  (a demo)
                break
    finally:
        connections.close_all()


def _take_order(order: int) -> None:
    tenant = f"tenant-{order % 7}"
    # The order and its jobs are one transaction of the application's: they go through its outbox.
    with transaction.atomic("default"):
        chain(
            jobs.charge.using(tags=[tenant]).bind(order, 9.90),
            jobs.send_receipt.using(tags=[tenant]).bind(address=f"customer-{order}@example.com"),
        ).run_later()
    if order % 20 == 0:
        pieces = [jobs.check_stock.bind(order, item) for item in range(14)]
        chain(group(*pieces), jobs.pack.bind(order), jobs.ship.bind()).run_later()
    if order % 30 == 0:
        jobs.resize_pictures.using(tags=[tenant]).run_later(order)
        jobs.send_newsletter.run_later(order)
    if order % 15 == 0:
        jobs.remind.using(run_after=timedelta(minutes=10), tags=[tenant]).run_later(order)


def _serve_mail(ended: threading.Event) -> None:
    """Serve the queue "mail" with a consumer of its own, which stops for a while again and again."""
    while not ended.is_set():
        with consumer("--queues", "mail", *SITE):
            ended.wait(SERVED)
        ended.wait(UNSERVED)
