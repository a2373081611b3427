"""Consumers in this process: one that drains the queue here, or one that works beside the test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections

from djjp.consumer.consumer import Consumer


def drain(limit: int = 4, **options: Any) -> Consumer:
    """Run all that is due, on this thread."""
    consumer = Consumer(limit, drain=True, **options)
    assert consumer.run()
    return consumer


@contextmanager
def consuming(limit: int = 2, **options: Any) -> Iterator[Consumer]:
    """A consumer on a thread of its own; at the end it has to end, and well."""
    consumer = Consumer(limit, **options)
    raised: list[BaseException] = []

    def work() -> None:
        try:
            consumer.run()
        except BaseException as error:  # noqa: BLE001  (shown below)
            raised.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield consumer
    finally:
        consumer.stop()
        thread.join(30)
    assert not thread.is_alive()
    assert raised == []
