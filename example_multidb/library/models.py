"""What is known of the indexed modules: a table of the application, which the queue never sees."""

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
