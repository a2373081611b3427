"""The permissions exist where Django has its users, whichever database has the queue."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.contrib.auth.models import Permission

from djjp.admin.rights import PERMISSIONS
from djjp.engine import Engine
from tests.support.projects import Scratch

ALL = {*PERMISSIONS.values(), "djjp.add_schedule", "djjp.delete_schedule"}


def test_there_are_the_permissions_that_mean_something_and_no_others(engine: Engine) -> None:
    found = Permission.objects.filter(content_type__app_label__startswith="djjp")
    assert {f"djjp.{each.codename}" for each in found} == ALL


@pytest.mark.one_pair
@pytest.mark.parametrize(
    "settings",
    [
        "",
        'DJJP = {"db_name": "default"}\ndel DATABASES["queue"]\nDATABASE_ROUTERS = []',
    ],
    ids=["queue", "default"],
)
def test_migrate_creates_the_permissions_in_the_applications_database(
    tmp_path: Path, settings: str
) -> None:
    project = Scratch(tmp_path, settings)
    done = project.python(
        "-c",
        "import django; django.setup()\n"
        "from django.conf import settings\n"
        "from django.core.management import call_command\n"
        "for alias in settings.DATABASES: call_command('migrate', database=alias, verbosity=0)\n"
        "from django.contrib.auth.models import Permission\n"
        "for each in Permission.objects.using('default').filter(content_type__app_label='djjp'):\n"
        "    print('djjp.' + each.codename)\n",
    )
    assert done.returncode == 0, done.stderr
    assert {*done.stdout.split()} == ALL
