"""The number of jobs in each queue, by state."""

from __future__ import annotations

from django.db.models import Count

from djjp import engine
from djjp.models import Job, State, listed


def counts() -> dict[str, dict[State, int]]:
    """Return the number of jobs in each queue by state; every row of the queue is read once.

    A state that this code does not know, of a row by hand or of a newer version, is left out.
    """
    rows = engine.run(
        lambda engine: list(
            listed(Job.objects.using(engine.db.alias))
            .order_by()
            .values_list("queue", "state")
            .annotate(Count("pk"))
        )
    )
    found: dict[str, dict[State, int]] = {}
    known = {state.value: state for state in State}
    for name, state, count in sorted(rows, key=lambda row: str(row[0])):
        states = found.setdefault(str(name), {})
        if state in known:
            states[known[state]] = count
    return found
