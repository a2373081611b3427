"""Releases: when the code that consumers run has changed."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from djjp.models.instant import InstantField


class Release(models.Model):
    """A change to a release. The rows of consumers are gone with them; these stay, the newest 200 of them.

    Attributes:
        name: `DJJP["release"]` of the consumers.
        appeared_at: when the first consumer that has it started. A release that comes back has a row each time.
    """

    name = models.CharField(max_length=100)
    appeared_at = InstantField()

    class Meta:
        verbose_name = _("release")
        verbose_name_plural = _("releases")
        db_table = "djjp_release"
        default_permissions = ()

    def __str__(self) -> str:
        return self.name
