"""Graphs: the jobs of a pipeline and the edges between them, as they are drawn and counted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from djjp.engine.database import Database
from djjp.engine.pipelines import EDGES
from djjp.engine.rows import TABLE, Key, Rows
from djjp.models import Flag, State

# As text and whole numbers: SQLite keeps other types in rows by hand.
_COLUMNS = """name || '' AS name, queue || '' AS queue, state || '' AS state,
CAST(coalesce(flags, 0) AS integer) AS flags, CAST(coalesce(attempts, 0) AS integer) AS attempts,
cancel_requested"""
_NAMES = "id, name, queue, state, flags, attempts, cancel_requested"


class Step(NamedTuple):
    """A job of a pipeline."""

    id: UUID
    name: str
    queue: str
    state: str
    flags: int
    attempts: int
    cancel_requested: bool

    @property
    def is_on_failure(self) -> bool:
        """True if it runs only when one of its parents does not succeed."""
        return bool(self.flags & Flag.ON_FAILURE)

    @property
    def is_not_needed(self) -> bool:
        """True for an `on_failure` job that has ended because nothing had failed."""
        return self.is_on_failure and bool(self.flags & Flag.UNLISTED)

    @property
    def is_hidden(self) -> bool:
        """True for the rows of an expansion that stand for no job of a user."""
        return bool(self.flags & Flag.UNLISTED) and not self.is_on_failure

    @property
    def is_counted(self) -> bool:
        """True if progress counts it: `on_failure` jobs and the rows of an expansion do not count."""
        return not self.flags & (Flag.ON_FAILURE | Flag.UNLISTED)

    @property
    def is_cancelling(self) -> bool:
        """True if it still runs although its cancellation was requested."""
        return self.state == State.RUNNING and self.cancel_requested


class Edge(NamedTuple):
    """An edge between two jobs, by their places in a list of steps; `parent` is smaller."""

    parent: int
    child: int
    result_path: str


class Graph(NamedTuple):
    """The jobs of a pipeline in the order of their ids, in which parents come first, and the edges between them.

    Attributes:
        has_more: whether the pipeline has more jobs.
    """

    steps: list[Step]
    edges: list[Edge]
    has_more: bool


class Graphs:
    """Read the jobs of pipelines and their edges."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def of(self, pipeline: UUID, most: int) -> Graph:
        """Return the first jobs of a pipeline, `most` at most, and the edges between them.

        Edges by hand that lead backwards are left out, so that the graph has no circle.
        """
        # Without rows by hand to whose ids no other row can refer.
        found = [
            (row, id)
            for row in self._first(pipeline, most + 1)
            if (id := self._db.to_id(row[0])) is not None
        ]
        shown = found[:most]
        places = {row[0]: place for place, (row, _) in enumerate(shown)}
        edges = [
            Edge(places[parent], places[child], path)
            for parent, child, path in self._edges(places)
            if parent in places and places[parent] < places[child]
        ]
        steps = [_step(id, row) for row, id in shown]
        return Graph(steps, edges, has_more=len(found) > most)

    def steps(self, ids: Collection[UUID]) -> list[Step]:
        """Return these jobs in the order of their ids."""
        if not ids:
            return []
        those = f"SELECT id, {_COLUMNS} FROM {TABLE} WHERE {{ids}}"
        rows = self._db.rows(_NAMES, f"FROM ({those}) AS those", self._db.keys(ids))
        steps = (_step(self._db.to_uuid(row[0]), row) for row in rows)
        return sorted(steps, key=lambda step: step.id)

    def _first(self, pipeline: UUID, most: int) -> Rows:
        columns = f"{self._db.key_text} AS id, {_COLUMNS}"
        table = self._db.indexed(TABLE, "djjp_job_pipeline")
        # The order begins with the pipeline, so that no planner prefers a walk along the primary key.
        is_one = self._db.is_one.format("pipeline", "%s")
        first = f"SELECT {columns} FROM {table} WHERE {is_one} ORDER BY pipeline, {TABLE}.id LIMIT {most}"
        with self._db.connection.cursor() as cursor:
            cursor.execute(
                f"{self._db.select(_NAMES)} FROM ({first}) AS first",
                self._db.keys([pipeline]) * is_one.count("%s"),
            )
            return self._db.fetch(cursor)

    def _edges(self, keys: Collection[Key]) -> Rows:
        """Return the edges to these jobs."""
        rest = f"FROM {EDGES} WHERE {{ids}}"
        return self._db.rows("parent, child, result_path", rest, keys, "child") if keys else ()


def _step(id: UUID, row: Sequence[Any]) -> Step:
    _, name, queue, state, flags, attempts, cancel_requested = row
    return Step(id, name, queue, state, flags, attempts, bool(cancel_requested))
