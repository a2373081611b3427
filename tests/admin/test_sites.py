"""Other admin sites: all pages on each, with the links of each."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.contrib.auth.models import User
from django.test import Client, override_settings
from django.urls import path
from django.utils import timezone

import djjp.admin
from djjp.engine import Engine
from djjp.models import Incident
from tests.support.admin import make_job, text
from tests.support.factories import consumer_row

ops = admin.AdminSite(name="ops")
djjp.admin.register(ops)

both = ModuleType("tests.admin.both_sites")
both.urlpatterns = [path("admin/", admin.site.urls), path("ops/", ops.urls)]  # type: ignore[attr-defined]  # a module's
alone = ModuleType("tests.admin.one_site")
alone.urlpatterns = [path("ops/", ops.urls)]  # type: ignore[attr-defined]  # a module's


@pytest.fixture
def superuser(engine: Engine) -> Iterator[Client]:
    user = User.objects.create_superuser("emma")
    client = Client()
    client.force_login(user)
    yield client
    User.objects.all().delete()


def test_a_site_has_all_models_of_the_default_site() -> None:
    ours = {model for model in admin.site._registry if model._meta.app_label == "djjp"}
    assert {*ops._registry} == ours == {*djjp.admin.ADMINS}


def test_registering_on_a_site_leaves_the_default_site_alone() -> None:
    before = dict(admin.site._registry)
    djjp.admin.register(admin.AdminSite(name="third"))
    assert admin.site._registry == before


def test_registering_again_replaces_the_admins() -> None:
    class Base(admin.ModelAdmin):  # type: ignore[type-arg]  # of any model
        pass

    site = admin.AdminSite(name="fourth")
    djjp.admin.register(site)
    djjp.admin.register(site, base=Base)
    for model, admin_class in djjp.admin.ADMINS.items():
        registered = site._registry[model]
        assert isinstance(registered, admin_class)
        assert isinstance(registered, Base)


@pytest.mark.parametrize("urls", [both, alone], ids=["both", "alone"])
def test_the_pages_of_a_site_link_to_that_site(superuser: Client, urls: ModuleType) -> None:
    job = make_job()
    consumer_row()
    now = timezone.now()
    incident = Incident.objects.create(kind="wait", subject="mail", opened_at=now, seen_at=now)
    with override_settings(ROOT_URLCONF=urls):
        for address in (
            "/ops/djjp/",
            "/ops/djjp/job/",
            f"/ops/djjp/job/{job.pk}/change/",
            "/ops/djjp/job/names/",
            f"/ops/djjp/job/names/{job.name}/",
            "/ops/djjp/job/outbox/",
            "/ops/djjp/job/outbox/default/",
            "/ops/djjp/queue/",
            f"/ops/djjp/queue/{job.queue}/change/",
            "/ops/djjp/consumer/",
            f"/ops/djjp/consumer/{quote('elsewhere:1:a')}/change/",
            "/ops/djjp/incident/",
            f"/ops/djjp/incident/{incident.pk}/change/",
        ):
            response = superuser.get(address)
            assert response.status_code == 200, address
            assert '="/admin/' not in text(response), address
            assert "/ops/djjp/job/" in text(response), address
