"""The starts that count against a rate."""

from __future__ import annotations

from django.db import models


class RateStart(models.Model):
    """One start of a job under a `Rate`; it is kept for as long as it counts.

    Attributes:
        key: the rate's key.
        until: when it counts no more, in seconds since the epoch by the clock of the queue's database.
    """

    key = models.CharField(max_length=200)
    until = models.FloatField()

    class Meta:
        db_table = "djjp_rate_start"
        indexes = [
            models.Index(fields=["key", "until"], name="djjp_rate_start_key"),
            models.Index(fields=["until"], name="djjp_rate_start_until"),
        ]

    def __str__(self) -> str:
        return f"{self.key} until {self.until}"
