"""The admin while the queue's database refuses: a page that names the error, and a new session afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connections
from django.test import Client
from django.urls import reverse

from djjp.engine import Engine
from djjp.models import Job, State
from tests.project.shop.jobs import add


@contextmanager
def away(engine: Engine) -> Iterator[None]:
    """Have the queue's alias lead nowhere."""
    settings: dict[str, Any] = connections.settings[engine.db.alias]
    before = dict(settings)
    engine.db.connection.close()
    settings.update(NAME="/nowhere/at/all", HOST="/nowhere")
    try:
        yield
    finally:
        settings.update(before)


def test_each_page_names_the_error_while_the_database_is_away(
    engine: Engine, admin: Client
) -> None:
    handle = add.run_later(1)
    pages = [
        admin.get(reverse("admin:djjp_job_changelist")),
        admin.get(reverse("admin:djjp_job_change", args=[handle.id])),
    ]
    assert [page.status_code for page in pages] == [200, 200]

    with away(engine):
        for url in (
            reverse("admin:djjp_job_changelist"),
            reverse("admin:djjp_job_change", args=[handle.id]),
        ):
            page = admin.get(url)
            assert page.status_code == 503
            assert f"the queue's database {engine.db.alias!r} did not take the call" in page.text
        page = admin.post(reverse("admin:djjp_job_cancel", args=[handle.id]))
        assert page.status_code == 503

    assert admin.get(reverse("admin:djjp_job_changelist")).status_code == 200


@pytest.mark.postgresql_only
def test_a_button_gets_a_new_session_for_a_useless_one(engine: Engine, admin: Client) -> None:
    handle = add.run_later(1)
    with engine.db.connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")

    page = admin.post(reverse("admin:djjp_job_cancel", args=[handle.id]))

    assert page.status_code == 302
    assert Job.objects.get(pk=handle.id).state == State.CANCELLED
