"""`djjp consumers` lists them, shows the stacks of one, and makes it quiet, or stop."""

from __future__ import annotations

import pytest

from djjp import job
from djjp.engine import Engine
from djjp.models import Consumer
from djjp.monitoring.requests import quiet, request_stack, stop, unquiet
from tests.management.conftest import Djjp
from tests.support.consumers import consuming
from tests.support.processes import eventually
from tests.support.recorder import GATE, SEEN, recorder

__all__ = ["recorder"]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for longer than users do, because tests can run on a busy machine."""
    for each in (request_stack, quiet, unquiet, stop):
        monkeypatch.setattr(each, "__defaults__", (60.0,))


@job(name="management.gate")
def gate() -> None:
    SEEN.append("waits")
    GATE.wait(60)


@pytest.mark.usefixtures("recorder")
def test_a_consumer_is_listed_with_its_jobs_and_answers_requests(
    engine: Engine, djjp: Djjp
) -> None:
    with consuming(slots=3, queues=["default", "mail"]) as consumer:
        handle = gate.run_later()
        eventually(lambda: SEEN)
        stacks = djjp("consumers", "stack", consumer.name, "--json").document("Stacks")

        def is_at_the_gate() -> bool:
            """Ask again while the job is still on its way from its mark to the gate."""
            lines = djjp("consumers", "stack", consumer.name).lines
            return any(line.endswith(" gate: GATE.wait(60)") and ">" in line for line in lines)

        eventually(is_at_the_gate)
        (listed,) = djjp("consumers", "--json").document("Consumers")["consumers"]
        table = djjp("consumers").out
        made_quiet = djjp("consumers", "quiet", consumer.name)
        is_quiet = Consumer.objects.get().quiet
        again = djjp("consumers", "unquiet", consumer.name, "--json").document("Request")
        stopped = djjp("consumers", "stop", consumer.name)
        GATE.set()
    assert [job["id"] for job in stacks["jobs"]] == [str(handle.id)]
    assert listed["runs"][0]["name"] == gate.name
    assert (listed["name"], listed["life"], listed["limit"]) == (consumer.name, "alive", 3)
    assert listed["queues"] == ["default", "mail"]
    assert consumer.name in table
    assert made_quiet.out == f"{consumer.name} claims no further jobs\n"
    assert is_quiet
    assert again == {"consumer": consumer.name, "requested": "unquiet"}
    assert stopped.code == 0
    assert not Consumer.objects.exists()


@pytest.mark.parametrize("verb", ["stack", "quiet", "unquiet", "stop"])
@pytest.mark.one_database
def test_an_unknown_consumer_gives_3(engine: Engine, djjp: Djjp, verb: str) -> None:
    ran = djjp("consumers", verb, "nobody", "--json")
    assert ran.code == 3
    assert ran.document("Failure")["error"]["slug"] == "consumer-not-found"


def test_without_consumers_it_names_the_command_that_starts_one(djjp: Djjp) -> None:
    assert djjp("consumers").out == "no consumers; start one: manage.py start_consumer\n"
    assert djjp("consumers", "--json").document("Consumers") == {"consumers": []}
