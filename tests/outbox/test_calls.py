"""The options and tags of one call pass through an outbox."""

from __future__ import annotations

from django.db import transaction

from djjp import chain, job
from djjp.engine import Engine
from tests.outbox.conftest import Application
from tests.project.shop.jobs import add
from tests.support.consumers import drain


@job(name="calls.fails")
def fails() -> None:
    raise OSError("again")


def test_they_pass_through_an_outbox(engine: Engine, application: Application) -> None:
    call = fails.using(max_attempts=2, backoff=0, tags=["out"])
    with transaction.atomic(application.alias):
        handle = call.run_later()
        pipeline = chain(add.bind(1), call.bind_alone()).run_later()
        assert (handle.tags, handle.options["max_attempts"]) == (["out"], 2)
        assert (handle.name, handle.ended, handle.started_at) == ("calls.fails", False, None)
    assert application.waiting() == 0
    drain()
    for each in (handle, pipeline.steps[1]):
        each.refresh()
        assert (len(each.errors), each.tags) == (2, ["out"])
