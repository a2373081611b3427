"""The admin of a project that has its own model of users: pages, an action, and who did it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.projects import Scratch

pytestmark = pytest.mark.end_to_end

SETTINGS = """
INSTALLED_APPS += ["people"]
AUTH_USER_MODEL = "people.Person"
"""
#: Without the fields of Django's own: a number as the key is all that they share.
MODELS = """
from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.db import models


class People(BaseUserManager):
    def create_superuser(self, email, password):
        return self.create(email=email, is_superuser=True, is_staff=True)


class Person(AbstractBaseUser, PermissionsMixin):
    email = models.EmailField(unique=True)
    is_staff = models.BooleanField(default=False)
    is_active = models.BooleanField(default=True)

    objects = People()
    USERNAME_FIELD = "email"
"""
JOBS = """
from djjp import job

@job
def breaks():
    raise ValueError("it broke")
"""
VISIT = """
import django

django.setup()

from django.contrib.admin.models import LogEntry
from django.core.management import call_command
from django.test import Client

from djjp.testing import drain
from people.jobs import breaks
from people.models import Person

for alias in ("default", "queue"):
    call_command("migrate", database=alias, verbosity=0)
failed = breaks.run_later()
drain()
client = Client(headers={"host": "localhost"})
client.force_login(Person.objects.create_superuser("ada@example.com", "secret"))
for page in ("", "job/", "job/ID/change/", "queue/", "consumer/", "schedule/", "operation/", "incident/"):
    print(page, client.get("/admin/djjp/" + page.replace("ID", str(failed.id))).status_code)
client.post(f"/admin/djjp/job/{failed.id}/retry/")
failed.refresh()
print(failed.state, [(entry.user.email, entry.get_change_message()) for entry in LogEntry.objects.all()])
"""


def test_pages_and_actions_know_the_users_of_the_project(tmp_path: Path) -> None:
    project = Scratch(tmp_path, SETTINGS)
    project.app("people", models=MODELS, jobs=JOBS)
    project.write("people/migrations/__init__.py", "")
    made = project.run("makemigrations", "people")
    assert made.returncode == 0, made.stderr

    done = project.python("-c", VISIT)

    *pages, last = done.stdout.splitlines()
    assert {page.split()[-1] for page in pages} == {"200"}, done.stdout
    assert last == "ready [('ada@example.com', 'Retried.')]"
