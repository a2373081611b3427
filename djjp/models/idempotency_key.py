"""Idempotency keys: requests to enqueue that were answered, so that their repeats enqueue nothing."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from djjp.models.instant import InstantField


class IdempotencyKey(models.Model):
    """A request of a token that has enqueued jobs. It is written in their transaction, and kept for a day.

    Attributes:
        token: the id of the token.
        fingerprint: the SHA-256 of the request.
        jobs: the ids of the jobs in hexadecimal digits, separated by spaces.
    """

    pk = models.CompositePrimaryKey("token", "key")
    token = models.UUIDField()
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64)
    jobs = models.TextField()
    created_at = InstantField(db_index=True)

    class Meta:
        verbose_name = _("idempotency key")
        verbose_name_plural = _("idempotency keys")
        db_table = "djjp_idempotency_key"
        default_permissions = ()

    def __str__(self) -> str:
        return self.key
