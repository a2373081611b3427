"""Users of the admin."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.models import Session
from django.test import Client

from djjp.engine import Engine
from tests.support.admin import LogIn


@pytest.fixture
def log_in_for(engine: Engine) -> Iterator[Callable[[str], LogIn]]:
    """Return a function that logs users in who have permissions on one model: `log_in_for("job")`.

    A permission that is named in full, as "view_arguments", is taken as it is.
    """

    def of_model(model: str) -> LogIn:
        def log_in(*verbs: str, strict: bool = False) -> Client:
            user = User.objects.create(username=f"user-{User.objects.count()}", is_staff=True)
            codenames = [verb if "_" in verb else f"{verb}_{model}" for verb in verbs]
            granted = Permission.objects.filter(
                content_type__app_label="djjp", codename__in=codenames
            )
            assert len(granted) == len(verbs)
            user.user_permissions.set(granted)
            client = Client(enforce_csrf_checks=strict)
            client.force_login(user)
            return client

        return log_in

    yield of_model
    LogEntry.objects.all().delete()
    User.objects.all().delete()
    Session.objects.all().delete()


@pytest.fixture
def log_in(log_in_for: Callable[[str], LogIn]) -> LogIn:
    """Log users in who have some permissions on jobs."""
    return log_in_for("job")


@pytest.fixture
def admin(log_in: LogIn) -> Client:
    """Return a client of a user with all permissions on jobs and queues."""
    return log_in("view", "view_arguments", "operate", "delete", "pause_queue")
