"""Incidents: what was wrong with the queue, from when to when."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from djjp.bounds import one_line
from djjp.ids import new_id
from djjp.models.instant import InstantField


class Incident(models.Model):
    """One thing that was wrong. At most one row is open for each kind and subject.

    Attributes:
        kind: the word of `djjp.monitoring.incidents`, such as "no_consumer".
        subject: the queue, name, consumer, schedule or alias that it is about; "" for the queue's database.
        seen_at: when it was last found to hold.
        closed_at: when it was found to hold no longer; null while it is open.
        facts: the figures of its sentence, as JSON text.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    kind = models.CharField(max_length=30)
    subject = models.CharField(max_length=200, blank=True)
    opened_at = InstantField()
    seen_at = InstantField()
    closed_at = InstantField(null=True, blank=True)
    facts = models.TextField(default="{}")

    class Meta:
        verbose_name = _("incident")
        verbose_name_plural = _("incidents")
        db_table = "djjp_incident"
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "subject"],
                condition=Q(closed_at__isnull=True),
                name="djjp_incident_open",
            )
        ]

    def __str__(self) -> str:
        return one_line(f"{self.kind} {self.subject}".strip())
