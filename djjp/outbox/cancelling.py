"""Cancels a job, or a whole pipeline, that waits in an outbox: where the queue knows nothing of it yet."""

from __future__ import annotations

import time
from uuid import UUID

from django.db import connections

from djjp import claims
from djjp.outbox import payload, relay, rows


def cancel(id: UUID) -> bool:
    """Cancel what waits under this id; whether there was anything.

    Inside a transaction of its database the row is marked, so that the cancellation commits or vanishes
    with the data, as the job does. Outside it is relayed first: the queue is where a relay that is under
    way and this call cannot miss each other.
    """
    for alias in rows.outboxes():
        for row in rows.read(alias, [id]):
            if connections[alias].in_atomic_block:
                rows.rewrite(alias, id, payload.cancelled(row.text))
            else:
                relay.relay(alias, [id])
                ids = [job.id for job in payload.jobs_of(row.text)]
                claims.call(lambda queue, ids=ids: queue.cancel(ids, time.time()))  # type: ignore[misc]  # the default binds these
            return True
    return False
