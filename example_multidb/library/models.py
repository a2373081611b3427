"""The indexed library: tables in the application's database, which the queue never uses."""

from __future__ import annotations

from django.db import models


class Module(models.Model):
    """One indexed Python file, by the name under which it is imported."""

    name = models.CharField(max_length=200, unique=True)
    lines = models.PositiveIntegerField()
    classes = models.PositiveIntegerField()
    functions = models.PositiveIntegerField()
    docstrings = models.PositiveIntegerField()
    indexed_at = models.DateTimeField(auto_now=True)

    objects: models.Manager[Module] = models.Manager()

    def __str__(self) -> str:
        return self.name


class Package(models.Model):
    """The report on one package: the sums of its modules, or the reason why there are none."""

    name = models.CharField(max_length=200, unique=True)
    modules = models.PositiveIntegerField()
    lines = models.PositiveIntegerField()
    reason = models.TextField(blank=True)
    summarised_at = models.DateTimeField(auto_now=True)

    objects: models.Manager[Package] = models.Manager()

    def __str__(self) -> str:
        return self.name
