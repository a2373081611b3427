"""Consumers, as the queue knows them."""

from __future__ import annotations

from django.db import models


class Consumer(models.Model):
    """A consumer process that lives, or that has died and is not yet known to have.

    Attributes:
        name: `host:pid:random`, as in `Job.consumer`.
        queues: the queues that it serves, as a JSON list; null for all.
        heartbeat_at: when it last said that it lives.
        locked: whether it holds a lock that dies with it, so that nobody need wait for its heartbeat.
    """

    name = models.CharField(primary_key=True, max_length=100)
    host = models.CharField(max_length=64)
    pid = models.PositiveIntegerField()
    queues = models.TextField(null=True, blank=True)
    concurrency = models.CharField(max_length=10)
    concurrency_limit = models.PositiveIntegerField()
    started_at = models.DateTimeField()
    heartbeat_at = models.DateTimeField()
    locked = models.BooleanField()

    class Meta:
        db_table = "djjp_consumer"

    def __str__(self) -> str:
        return self.name
