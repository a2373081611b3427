"""django-prometheus: its wrappers of Django's engines count the statements of the application and of the queue."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packages.support import DATABASES, need, queue_url, run
from tests.packages.with_debug_toolbar import JOBS

SETTINGS = """
import os

INSTALLED_APPS = ["djjp.outbox", "shop", "django_prometheus", *INSTALLED_APPS]
DATABASES["default"]["ENGINE"] = "django_prometheus.db.backends.sqlite3"
DATABASES["queue"] = queue_database(os.environ.get("QUEUE_URL") or HOME / "queue.sqlite3")
DATABASES["queue"]["ENGINE"] = DATABASES["queue"]["ENGINE"].replace(
    "django.db", "django_prometheus.db"
)
"""

SCRIPT = """
from django.db import connections, transaction
from djjp import run_many
from djjp.consumer.consumer import Consumer
from djjp.models import Job
from prometheus_client import REGISTRY
from shop.jobs import order

call_command("check", databases=["default", "queue"], fail_level="WARNING")
assert "django_prometheus" in type(connections["queue"]).__module__
order.run_later("at once")
with transaction.atomic():
    order.run_later("by the outbox")
run_many(order.bind(str(number)) for number in range(3))
for concurrency in ("threads", "asyncio"):
    assert Consumer(2, drain=True, concurrency=concurrency).run()
    order.run_later(concurrency)
assert Consumer(2, drain=True).run()
assert REGISTRY.get_sample_value("django_db_execute_total", {"alias": "default", "vendor": "sqlite"}) > 0
print(sorted(Job.objects.values_list("state", flat=True)))
for connection in connections.all():
    connection.close()
"""


@pytest.mark.parametrize("database", DATABASES)
def test_jobs_run_on_its_engines(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    need("django_prometheus", "django-prometheus")

    with queue_url(database, request):
        printed = run(tmp_path, SETTINGS, SCRIPT, jobs=JOBS)

    assert printed.strip().endswith(str(["succeeded"] * 7))
