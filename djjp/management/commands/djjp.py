"""`manage.py djjp …`: inspect and control the queue from a terminal."""

from __future__ import annotations

from djjp import __version__
from djjp.management import (
    actions,
    bench,
    check,
    consumers,
    enqueue,
    failures,
    incidents,
    jobs,
    one_job,
    operations,
    queues,
    schedules,
    stats,
    status,
    storage,
    tokens,
)
from djjp.management.group import commands


@commands(version=__version__)
def command() -> None:
    """Inspect and control the queue."""


for each in (
    status.status,
    jobs.jobs,
    one_job.show,
    one_job.explain,
    actions.retry,
    actions.cancel,
    actions.run,
    actions.move,
    actions.priority,
    actions.delete,
    operations.operations_group,
    enqueue.enqueue,
    queues.queues_command,
    queues.pause,
    queues.resume,
    consumers.consumers_group,
    schedules.schedules_group,
    failures.failures,
    stats.stats,
    incidents.incidents,
    tokens.token_group,
    check.check,
    bench.bench,
    storage.outbox,
    storage.prune,
    storage.migrate,
    storage.backup,
    storage.transfer,
):
    command.add_command(each)
