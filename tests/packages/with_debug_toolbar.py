"""django-debug-toolbar: its panels show a request that enqueues, and no statement of the queue disturbs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packages.support import DATABASES, need, queue_url, run

SETTINGS = """
import os

DATABASES["queue"] = queue_database(os.environ.get("QUEUE_URL") or HOME / "queue.sqlite3")
DEBUG = True
INTERNAL_IPS = ["127.0.0.1"]
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = [
    "djjp.outbox", "shop", "debug_toolbar", "django.contrib.staticfiles", *INSTALLED_APPS
]
MIDDLEWARE = ["debug_toolbar.middleware.DebugToolbarMiddleware", *MIDDLEWARE]
STATIC_URL = "static/"
ROOT_URLCONF = "shop.urls"
"""

URLS = """
from debug_toolbar.toolbar import debug_toolbar_urls
from django.contrib.auth.models import Group
from django.db import transaction
from django.http import HttpResponse
from django.urls import path

from djjp import run_many
from shop.jobs import order


def place(request):
    order.run_later("at once")
    with transaction.atomic():
        Group.objects.create(name="in a transaction")
        order.run_later("by the outbox")
    run_many(order.bind(str(number)) for number in range(3))
    run_many(order.using(unique_key=str(number)).bind(str(number)) for number in range(3, 6))
    with transaction.atomic():
        run_many(order.bind(str(number)) for number in range(6, 9))
    return HttpResponse("<html><body>placed</body></html>")


urlpatterns = [path("place/", place), *debug_toolbar_urls()]
"""

JOBS = """
from django.contrib.auth.models import Group

from djjp import job


@job(name="shop.order")
def order(title):
    Group.objects.create(name=title)
    return title
"""

SCRIPT = """
from django.test import Client
from djjp.consumer.consumer import Consumer
from djjp.models import Job

answer = Client().get("/place/", REMOTE_ADDR="127.0.0.1")
assert answer.status_code == 200
assert "djDebug" in answer.content.decode(), answer.content
assert Consumer(2, drain=True).run()
print(sorted(Job.objects.values_list("state", flat=True)))
"""


@pytest.mark.parametrize("database", DATABASES)
def test_a_request_with_the_toolbar_enqueues(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    need("debug_toolbar", "django-debug-toolbar")

    with queue_url(database, request):
        printed = run(tmp_path, SETTINGS, SCRIPT, urls=URLS, jobs=JOBS)

    assert printed.strip().endswith(str(["succeeded"] * 11))
