"""The transfer of a queue to another database, as the command runs it: checks, tables, dead consumers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.conf import settings
from django.core.management import call_command
from django.core.management.commands.migrate import Command as Migrate
from django.db import connections

from djjp import conf, unapplied
from djjp.consumer.failure_detector import FailureDetector
from djjp.consumer.rescue import rescue
from djjp.durations import unchecked_seconds
from djjp.engine import Engine, Liveness, Transferring, for_alias, sessions
from djjp.routers import APP_LABEL

# Seconds between two looks at consumers that may be dead.
_LOOK_EVERY = 0.2


def transfer(source: str, target: str, report: Callable[[int, int], object]) -> int:
    """Move the queue on one alias to another and return the number of rows that were moved.

    The target's tables are created if they are missing. A run that was killed is continued by the next one.

    Args:
        report: called with the numbers of rows that are moved and that were there at the start.

    Raises:
        ValueError: the aliases are not those of two databases, a consumer lives, another transfer is
            unfinished, or the target has rows of its own.
        ImproperlyConfigured: djjp does not run on one of the databases.
        QueueUnavailable: one of them does not answer.
    """
    engines = source_engine, target_engine = _engines(source, target)
    if not unapplied.has_tables(target, APP_LABEL):
        call_command(Migrate(), APP_LABEL, "zero", fake=True, database=target, verbosity=0)
    if unapplied.unapplied(target, APP_LABEL):
        with _queue_at(target):
            call_command(Migrate(), APP_LABEL, database=target, verbosity=0)
    if problem := unapplied.problem(source, APP_LABEL):
        raise ValueError(problem)
    moved = total = 0

    def count(rows: int) -> None:
        nonlocal moved
        moved += rows
        report(moved, max(total, moved))

    work = Transferring(source_engine, target_engine, count)
    for engine in engines:
        _require_no_consumer(engine)
    take_back = work.begin()
    try:
        # One can have started meanwhile; from now on none does.
        for engine in engines:
            _require_no_consumer(engine)
    except ValueError:
        take_back()
        raise
    total = work.count()
    work.move()
    work.finish()
    return moved


def _engines(source: str, target: str) -> tuple[Engine, Engine]:
    for alias in (source, target):
        if alias not in connections.settings:
            raise ValueError(f"{alias!r} is no alias in DATABASES")
    engines = for_alias(source), for_alias(target)
    first, second = (e.db.database_identity(connections.settings[e.db.alias]) for e in engines)
    if source == target or first == second:
        raise ValueError(f"{source!r} and {target!r} are one database")
    for engine in engines:
        with sessions.translated(engine.db):
            engine.db.connection.ensure_connection()
            if (
                engine.db.alias != conf.db_name()
            ):  # whose connections are prepared as they are opened
                engine.db.adopt(engine.db.connection)
    return engines


@contextmanager
def _queue_at(alias: str) -> Iterator[None]:
    """Have djjp's tables belong to a database while the block runs: the router creates them nowhere else."""
    before = getattr(settings, "DJJP", {})
    settings.DJJP = {**before, "db_name": alias}
    try:
        yield
    finally:
        settings.DJJP = before


def _require_no_consumer(engine: Engine) -> None:
    """Rescue the jobs of dead consumers; raise ValueError if one lives, or may live."""
    limit = unchecked_seconds(conf.current().heartbeat_limit)
    detector = FailureDetector(limit, None, reconnect=0.0)
    heartbeats: dict[str, float | None] = {}
    while True:
        peers = [*engine.consumers.peers(), *engine.consumers.consumers_without_row()]
        for peer in peers:
            beats = heartbeats.setdefault(peer.name, peer.heartbeat) != peer.heartbeat
            if beats or engine.consumers.liveness(peer) is Liveness.LIVES:
                raise ValueError(
                    f"consumer {peer.name} of {engine.db.alias!r} lives; stop it first"
                )
        dead = detector.find_dead(engine, "")
        for peer in dead:
            rescue(engine, peer)
        if len(dead) == len(peers):
            return
        time.sleep(_LOOK_EVERY)
