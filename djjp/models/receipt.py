"""Receipts of jobs that were relayed from outboxes."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from djjp.models.instant import InstantField


class Relayed(models.Model):
    """A receipt for a job from an outbox, so that it is not relayed again, even after it was pruned.

    The row is kept until no transaction can see the job's row in the outbox any more.
    """

    id = models.UUIDField(primary_key=True, editable=False)
    relayed_at = InstantField()

    class Meta:
        verbose_name = _("receipt")
        verbose_name_plural = _("receipts")
        db_table = "djjp_relayed"
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.id)
