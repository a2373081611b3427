"""The starts that count against a rate."""

from __future__ import annotations

from django.db import models


class Start(models.Model):
    """One start of a job under a `Rate`; it is kept for as long as it counts.

    Attributes:
        key: the rate's key.
        at: seconds since the epoch, by the clock of the queue's database.
    """

    key = models.CharField(max_length=200)
    at = models.FloatField()

    class Meta:
        db_table = "djjp_start"
        indexes = [models.Index(fields=["key", "at"], name="djjp_start_key")]

    def __str__(self) -> str:
        return f"{self.key} at {self.at}"
