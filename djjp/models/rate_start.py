"""Job starts that count against a rate."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class RateStart(models.Model):
    """Starts of jobs under a `Rate`; the row is kept as long as they count.

    Attributes:
        key: the rate's key.
        until: when the starts stop counting, in seconds since the epoch on the clock of the queue's database.
        count: the number of starts.
    """

    key = models.CharField(max_length=200)
    until = models.FloatField()
    count = models.IntegerField(default=1, db_default=1)

    class Meta:
        verbose_name = _("rate start")
        verbose_name_plural = _("rate starts")
        db_table = "djjp_rate_start"
        default_permissions = ()
        indexes = [
            models.Index(fields=["key", "until"], name="djjp_rate_start_key"),
            models.Index(fields=["until"], name="djjp_rate_start_until"),
        ]

    def __str__(self) -> str:
        return f"{self.count} of {self.key} until {self.until}"
