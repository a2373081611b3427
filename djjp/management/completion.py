"""Completions of a shell: names of jobs, queues, states, schedules and consumers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click

from djjp import engine, monitoring, queues, schedules
from djjp.jobs import registry
from djjp.models import State

Completer = Callable[[click.Context, click.Parameter, str], list[str]]

#: The newest jobs whose ids are offered.
_IDS = 30


def _completer(names: Callable[[], Iterable[str]]) -> Completer:
    """Return what click calls for completions; a queue that does not answer has none."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        try:
            found = list(names())
        except Exception:  # noqa: BLE001  (a shell must not show an error in the middle of a line)
            return []
        return [name for name in dict.fromkeys(found) if name.startswith(incomplete)]

    return complete


def _queues() -> list[str]:
    ready = engine.run(lambda engine: engine.queues.with_ready())
    declared = [registry.get(name).options.queue for name in registry.names()]
    return sorted({*ready, *declared, *queues.paused()})


def _ids() -> list[str]:
    return [str(job.pk) for job in monitoring.latest_jobs(limit=_IDS)]


states = _completer(lambda: [state.value for state in State])
job_names = _completer(lambda: sorted(registry.names()))
queue_names = _completer(_queues)
schedule_names = _completer(lambda: [row.name for row in schedules.listing()])
consumer_names = _completer(lambda: [consumer.name for consumer in monitoring.consumers()])
job_ids = _completer(_ids)
