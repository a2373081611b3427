"""Tokens: the rights of programs that use the HTTP interface."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from djjp.ids import new_id
from djjp.models.instant import InstantField


class Scope(models.TextChoices):
    """The rights of a token; each scope includes those before it."""

    READ = "read", pgettext_lazy("scope of a token", "Read")
    ENQUEUE = "enqueue", pgettext_lazy("scope of a token", "Enqueue")
    OPERATE = "operate", pgettext_lazy("scope of a token", "Operate")


class Token(models.Model):
    """A token, without its secret text.

    Attributes:
        digest: the SHA-256 of the text, in hexadecimal digits.
        jobs: the names of jobs that it is for, as a glob.
        queues: the queues that it is for, as a glob.
        arguments: whether it shows arguments, results and errors of jobs.
        expires_at: when it ends; null for never.
        last_used_at: when it was last used, to the minute.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    name = models.CharField(max_length=100, unique=True)
    digest = models.CharField(max_length=64, unique=True)
    scope = models.CharField(max_length=10)
    jobs = models.CharField(max_length=200, default="*")
    queues = models.CharField(max_length=200, default="*")
    arguments = models.BooleanField(default=False)
    created_at = InstantField()
    expires_at = InstantField(null=True, blank=True)
    last_used_at = InstantField(null=True, blank=True)

    class Meta:
        verbose_name = _("token")
        verbose_name_plural = _("tokens")
        db_table = "djjp_token"
        default_permissions = ()

    def __str__(self) -> str:
        return self.name
