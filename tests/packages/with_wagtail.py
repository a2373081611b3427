"""Wagtail: an editor makes and publishes a page, and its tasks go through djjp's backend and outbox."""

from __future__ import annotations

from pathlib import Path

from tests.packages.support import need, run

SETTINGS = """
INSTALLED_APPS = [
    "djjp.outbox",
    "shop",
    "wagtail.contrib.redirects",
    "wagtail.users",
    "wagtail.snippets",
    "wagtail.documents",
    "wagtail.images",
    "wagtail.search",
    "wagtail.admin",
    "wagtail",
    "modelcluster",
    "taggit",
    "django.contrib.staticfiles",
    *INSTALLED_APPS,
]
import django
if django.VERSION < (6, 0):
    INSTALLED_APPS.append("django_tasks")
TASKS = {"default": {"BACKEND": "djjp.backend.DjjpBackend", "QUEUES": []}}
STATIC_URL = "static/"
ALLOWED_HOSTS = ["*"]
WAGTAIL_SITE_NAME = "Shop"
WAGTAILADMIN_BASE_URL = "http://localhost"
WAGTAILSEARCH_BACKENDS = {"default": {"BACKEND": "wagtail.search.backends.database"}}
ROOT_URLCONF = "shop.urls"
"""

URLS = """
from django.urls import include, path
from wagtail import urls as wagtail_urls
from wagtail.admin import urls as wagtailadmin_urls
from wagtail.documents import urls as wagtaildocs_urls

urlpatterns = [
    path("admin/", include(wagtailadmin_urls)),
    path("documents/", include(wagtaildocs_urls)),
    path("", include(wagtail_urls)),
]
"""

MODELS = """
from django.db import models
from wagtail.admin.panels import FieldPanel
from wagtail.models import Page


class BookPage(Page):
    sequel_to = models.ForeignKey(
        Page, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    content_panels = Page.content_panels + [FieldPanel("sequel_to")]
    template = "book.html"
"""

SCRIPT = """
from django.contrib.auth import get_user_model
from django.db import transaction
from django.test import Client
from djjp.models import Job
from djjp.outbox.models import OutboxJob
from djjp.testing import drain
from shop.models import BookPage
from wagtail.models import Page, ReferenceIndex

drain(raise_errors=True)
get_user_model().objects.create_superuser("emma", "emma@example.com", "secret")
client = Client(raise_request_exception=True)
assert client.login(username="emma", password="secret")
home = Page.objects.get(depth=2)

with transaction.atomic():
    answer = client.post(
        f"/admin/pages/add/shop/bookpage/{home.pk}/",
        {
            "title": "Persuasion",
            "slug": "persuasion",
            "sequel_to": str(home.pk),
            "comments-TOTAL_FORMS": 0,
            "comments-INITIAL_FORMS": 0,
            "action-publish": "Publish",
        },
    )
    assert answer.status_code == 302, answer.content.decode()[:5000]
    assert not Job.objects.exclude(state="succeeded").exists(), "nothing is enqueued before the commit"
page = BookPage.objects.get()
assert page.live
assert not ReferenceIndex.get_references_to(home).exists()

executed = drain(raise_errors=True)
assert executed >= 1, executed
assert OutboxJob.objects.count() == 0
assert ReferenceIndex.get_references_to(home).filter(object_id=str(page.pk)).exists()
print(sorted(set(Job.objects.values_list("name", "state"))))
"""


def test_an_editor_publishes_a_page(tmp_path: Path) -> None:
    need("wagtail", "Wagtail")
    migration = {"migrations/__init__": ""}
    printed = run(
        tmp_path,
        SETTINGS,
        'call_command("makemigrations", "shop", verbosity=0)\n'
        'call_command("migrate", verbosity=0)\n' + SCRIPT,
        models=MODELS,
        urls=URLS,
        **migration,
    )

    assert "('wagtail.tasks.update_reference_index_task', 'succeeded')" in printed
