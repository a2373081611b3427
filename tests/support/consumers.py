"""Consumers in this process: one that drains the queue here, or one that works beside the test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections

from djjp.consumer.consumer import Consumer


def drain(slots: int = 4, **options: Any) -> Consumer:
    """Run all due jobs, on this thread."""
    consumer = Consumer(slots, drain=True, **options)
    assert consumer.run()
    return consumer


@contextmanager
def consuming(slots: int = 2, **options: Any) -> Iterator[Consumer]:
    """Run a consumer on a thread; at the end of the block it must end without an error."""
    consumer = Consumer(slots, **options)
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
