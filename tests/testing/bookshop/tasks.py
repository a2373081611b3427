"""A task of Django's framework, in a project that has jobs too."""

from typing import TYPE_CHECKING

import django
from django.contrib.auth.models import Group

if TYPE_CHECKING or django.VERSION >= (6, 0):
    from django.tasks import task
else:
    from django_tasks import task


@task(priority=7)
def restock(titles: list[str], *, shelf: int = 0) -> int:
    for title in titles:
        Group.objects.create(name=f"{title} on shelf {shelf}")
    return len(titles)
