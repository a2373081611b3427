"""Cancels a job, or a whole pipeline, that waits in an outbox: where the queue knows nothing of it yet."""

from __future__ import annotations

import time
from uuid import UUID

from django.db import connections

from djjp import engine
from djjp.outbox import relay, serialization, table


def cancel(id: UUID) -> bool:
    """Cancel what waits under this id; whether there was anything.

    Inside a transaction of its database the row is marked, so that the cancellation commits or vanishes
    with the data, as the job does. Outside it is relayed first: the queue is where a relay that is under
    way and this call cannot miss each other.
    """
    for alias in table.outboxes():
        for row in table.read(alias, [id]):
            if connections[alias].in_atomic_block:
                table.rewrite(alias, id, serialization.cancelled(row.text))
            else:
                relay.relay(alias, [id])
                ids = [job.id for job in serialization.jobs_of(row.text)]
                engine.run(lambda engine, ids=ids: engine.control.cancel(ids, time.time()))  # type: ignore[misc]  # the default binds these
            return True
    return False
