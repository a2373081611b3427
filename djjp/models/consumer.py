"""Consumers that are registered in the queue."""

from __future__ import annotations

from django.db import models


class Consumer(models.Model):
    """A consumer process that is alive, or whose death no other consumer has detected yet.

    Attributes:
        name: `host:pid:random`, as in `Job.consumer`.
        queues: the queues it serves, as a JSON list; null for all.
        heartbeat_at: the time of its last heartbeat.
        locked: whether it holds a lock that ends with its process, so that others detect its death without
            waiting for heartbeats to age.
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
