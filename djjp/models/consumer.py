"""Consumers that are registered in the queue."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from djjp.bounds import one_line
from djjp.models.instant import InstantField


class Consumer(models.Model):
    """A consumer process that is alive, or whose death no other consumer has detected yet.

    Attributes:
        name: `host:pid:token`, as in `Job.consumer`.
        queues: the queues it serves, as a JSON list; null for all.
        heartbeat_at: the time of its last heartbeat.
        locked: whether it holds a lock that ends with its process, so that others detect its death without
            waiting for heartbeats to age.
        release: `DJJP["release"]` of its process; "" without.
        quiet: whether it was asked to claim no further jobs.
        request: the request to its coordinator, as JSON text; null for none.
        names: the names of the jobs that it knows, as a JSON list; null in a row by hand.
        answer: the answer to its last request until the requester has read it, as JSON text.
    """

    name = models.CharField(primary_key=True, max_length=100)
    host = models.CharField(max_length=64)
    pid = models.PositiveIntegerField()
    queues = models.TextField(null=True, blank=True)
    concurrency = models.CharField(max_length=10)
    concurrency_limit = models.PositiveIntegerField()
    started_at = InstantField()
    heartbeat_at = InstantField()
    locked = models.BooleanField()
    release = models.CharField(max_length=100, blank=True, default="", db_default="")
    quiet = models.BooleanField(default=False, db_default=False)
    request = models.TextField(null=True, blank=True)
    # These can be long: SQLite reads the columns before them without them.
    names = models.TextField(null=True, blank=True)
    answer = models.TextField(null=True, blank=True)

    class Meta:
        verbose_name = _("consumer")
        verbose_name_plural = _("consumers")
        db_table = "djjp_consumer"
        default_permissions = ()

    def __str__(self) -> str:
        return one_line(self.name)
