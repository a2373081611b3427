"""What is known of the indexed library: tables of the application, which the queue never sees."""

from __future__ import annotations

from django.db import models


class Module(models.Model):
    """One indexed file of Python source, under the name by which it is imported."""

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
    """The report: what the modules of one folder come to, or the reason why nobody knows."""

    name = models.CharField(max_length=200, unique=True)
    modules = models.PositiveIntegerField()
    lines = models.PositiveIntegerField()
    reason = models.TextField(blank=True)
    summarised_at = models.DateTimeField(auto_now=True)

    objects: models.Manager[Package] = models.Manager()

    def __str__(self) -> str:
        return self.name
