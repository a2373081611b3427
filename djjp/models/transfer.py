"""Transfers of a queue from one database to another."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from djjp.ids import new_id
from djjp.models.instant import InstantField


class Transfer(models.Model):
    """The last transfer of this queue: a row in each of its two databases, with the same id.

    While it is unfinished, no consumer starts on either of them. See `djjp.engine.transfer`.

    Attributes:
        other: the alias of the other database.
        incoming: whether this database is the one that the jobs move to.
        finished_at: when nothing was left to move; null before.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    other = models.CharField(max_length=200)
    incoming = models.BooleanField()
    started_at = InstantField()
    finished_at = InstantField(null=True, blank=True)

    class Meta:
        verbose_name = _("transfer")
        verbose_name_plural = _("transfers")
        db_table = "djjp_transfer"
        default_permissions = ()

    def __str__(self) -> str:
        return f"transfer {'from' if self.incoming else 'to'} {self.other}"
