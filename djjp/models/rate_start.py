"""Job starts that count against a rate."""

from __future__ import annotations

from django.db import models


class RateStart(models.Model):
    """One start of a job under a `Rate`; the row is kept as long as the start counts.

    Attributes:
        key: the rate's key.
        until: when the start stops counting, in seconds since the epoch on the clock of the queue's database.
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
