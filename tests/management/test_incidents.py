"""`djjp incidents` lists what is wrong, worst first, with its remedy; `check` finds it too."""

from __future__ import annotations

import time
from datetime import timedelta

from django.utils import timezone

from djjp.engine import Engine
from djjp.models import Incident, Job
from tests.management.conftest import Djjp
from tests.support.factories import new_job


def test_an_incident_is_found_and_shown_where_no_consumer_is_alive(
    engine: Engine, djjp: Djjp
) -> None:
    engine.jobs.enqueue(new_job(queue="mail", created_at=time.time() - 60))
    then = timezone.now() - timedelta(hours=3)
    Incident.objects.create(
        kind="clock_skew",
        subject="web1",
        opened_at=then,
        seen_at=then,
        closed_at=timezone.now() - timedelta(hours=2),
        facts='{"seconds": 5.0, "other": "db1"}',
    )

    first, last = djjp("incidents", "--json").document("Incidents")["incidents"]
    assert (first["kind"], first["subject"], first["closed_at"]) == ("no_consumer", "mail", None)
    assert first["remedy"] == "python manage.py start_consumer --queues mail"
    assert first["sentence"].endswith(first["remedy"])
    assert last["kind"] == "clock_skew"

    shown = djjp("incidents").lines
    assert shown[0].startswith("no_consumer since ")
    assert shown[1].strip() == first["sentence"]
    assert shown[2] == "clock_skew from 3 h ago to 2 h ago, closed"
    assert shown[-1] == "1 closed incident; they are kept for 30 days"

    (only,) = djjp("incidents", "--open", "--json").document("Incidents")["incidents"]
    assert only["id"] == first["id"]
    assert len(djjp("incidents", "--since", "1h", "--json").document("Incidents")["incidents"]) == 1

    found = djjp("check", "--json").document("Check")["checks"]
    assert first["remedy"] in [each["fix"] for each in found if each["check"] == "incidents"]
    assert Job.objects.count() == 1


def test_without_incidents_nothing_is_wrong(djjp: Djjp) -> None:
    assert djjp("incidents").out == "nothing is wrong\n"
    assert djjp("incidents", "--json").document("Incidents") == {"incidents": []}


def test_a_wrong_since_is_a_usage_error(djjp: Djjp) -> None:
    assert djjp("incidents", "--since", "x").code == 2
