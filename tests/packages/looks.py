"""Shared by the tests of packages for the looks of the admin: each page is there, and its buttons are usable."""

from __future__ import annotations

from pathlib import Path

from tests.packages.support import run

#: The settings of a project with such a package, whose app is the first.
SETTINGS = """
INSTALLED_APPS = ["{app}", *INSTALLED_APPS, "django.contrib.staticfiles", "djjp.outbox", "shop"]
ALLOWED_HOSTS = ["*"]
STATIC_URL = "static/"
ROOT_URLCONF = "shop.urls"
"""

URLS = """
from django.contrib import admin
from django.urls import include, path

urlpatterns = [{more}path("admin/", admin.site.urls)]
"""

JOBS = """
from djjp import job


@job
def add(a, b=0):
    return a + b


@job
def fail():
    raise ValueError("no address")
"""

SCRIPT = """
import time
from html.parser import HTMLParser
from datetime import timedelta
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.test import Client
from djjp.models import Job, Schedule
from djjp.testing import drain
from shop.jobs import add, fail


class Buttons(HTMLParser):
    '''The addresses of the forms that have a button, and what forms are inside of others.'''

    def __init__(self):
        super().__init__()
        self.forms, self.found, self.nested = [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "form":
            self.nested += [attrs.get("action")] * bool(self.forms)
            self.forms.append(attrs.get("action", ""))
        elif tag == "button" and self.forms and attrs.get("type") != "button":
            self.found.append(attrs.get("formaction") or self.forms[-1])

    def handle_endtag(self, tag):
        if tag == "form" and self.forms:
            self.forms.pop()


failed, later = fail.run_later(), add.using(run_after=3600).run_later(1)
drain()
user = get_user_model().objects.create_superuser("emma", "emma@example.com", "secret")
schedule = Schedule.objects.create(
    name="nightly", job=add.name, arguments='{"args":[1],"kwargs":{}}', cron="0 9 * * *", tz="UTC",
    fired_until=time.time(),
)
client = Client()
client.force_login(user)
for address, buttons in {
    "": [],
    "job/": [],
    "job/failures/": [],
    "queue/": [],
    "consumer/": [],
    "operation/": [],
    "incident/": [],
    "schedule/": [],
    f"job/{failed.id}/change/": [f"job/{failed.id}/retry/"],
    f"job/{later.id}/change/": [f"job/{later.id}/run/"],
    f"schedule/{schedule.pk}/change/": [f"schedule/{schedule.pk}/run/"],
}.items():
    answer = client.get(f"/admin/djjp/{address}")
    assert answer.status_code == 200, (address, answer)
    html = answer.content.decode()
    assert "djjp/admin.css" in html, address
    found = Buttons()
    found.feed(html)
    assert not [each for each in found.nested if each and "djjp" in each], (address, found.nested)
    for button in buttons:
        assert f"/admin/djjp/{button}" in found.found, (address, found.found)
        assert client.post(f"/admin/djjp/{button}").status_code == 302, button
assert {str(Job.objects.get(pk=each.id).state) for each in (failed, later)} == {"ready"}
print("all pages")
"""


def try_pages(home: Path, app: str, urls: str = "", admin: str = "") -> None:
    """Look at the pages in a project with a package.

    Args:
        app: the package's app.
        urls: the start of the list of URLs.
        admin: the text of the project's `admin.py`.
    """
    printed = run(
        home,
        SETTINGS.format(app=app),
        SCRIPT,
        jobs=JOBS,
        urls=URLS.format(more=urls),
        admin=admin,
    )
    assert printed.endswith("all pages\n"), printed
