"""Inputs: the results of parents, nested as a step takes them.

No input is copied into a row: it is read from the rows of the parents when the job is claimed. A job that collects
(`expand()`) stores the list of its members' results, so that the turn which claims the next step reads one row
instead of 100,000; a list that is too long to be stored is read from the rows of the members in the same way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any
from uuid import UUID

from djjp import codec
from djjp.engine.causes import Causes
from djjp.engine.database import Database
from djjp.engine.pipelines import EDGES
from djjp.engine.records import Claimed
from djjp.engine.result_paths import NO_RESULT, ON_FAILURE, carries_result, nest, tolerates
from djjp.engine.rows import TABLE, Key
from djjp.exceptions import JobNotFinished
from djjp.models import Flag

_EDGES = f"FROM {EDGES} WHERE {{ids}} AND result_path <> '{ON_FAILURE}'"
_UP_TO = "CASE WHEN length(result) <= {} THEN result END"
_RESULTS = f"FROM {TABLE} WHERE {{ids}} AND state = 'succeeded'"
_OF_PARENTS = f"""FROM {EDGES} AS edge {{join}} {TABLE} AS job ON job.id = edge.parent
WHERE {{ids}} AND edge.result_path <> '{ON_FAILURE}'"""
_SIZES = f"""FROM (SELECT edge.child AS child, coalesce(sum(length(job.result)), 0) AS size,
max(CASE WHEN job.result IS NULL THEN job.flags & {Flag.COLLECTS} ELSE 0 END) AS collects
{_OF_PARENTS} GROUP BY edge.child) AS each
WHERE size > 0 OR collects > 0"""
_COLLECTORS = f"{_OF_PARENTS} AND job.flags & {Flag.COLLECTS} <> 0 AND job.result IS NULL"

_Texts = dict[
    Key, str | None
]  # by parent that has succeeded; None for a parent that runs no function
_Edges = Collection[Any]  # child, parent, path


class Inputs:
    """Read and measure the inputs of jobs."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._causes = Causes(db)

    def with_inputs(self, jobs: list[Claimed]) -> list[Claimed]:
        """Return the claimed jobs, with the input of those that take one."""
        return self._with(jobs, self._results(_with_parents(jobs)))

    def with_small_inputs(self, jobs: list[Claimed], size: int) -> list[Claimed] | None:
        """Return the same in one statement less; None if the inputs may come to more characters than this."""
        texts: dict[UUID, str] = {}
        ids = _with_parents(jobs)
        if ids:
            edges = self._edges(ids)
            parents = {parent for _, parent, _ in edges}
            # Each result may have its share wherever it goes: a power of two, for few different statements.
            share = size >> len(edges).bit_length()
            rows = self._db.rows(f"id, {_UP_TO.format(share)}", _RESULTS, parents)
            found: _Texts = {id: text for id, text in rows}  # noqa: C416  (pairs)
            if None in found.values():
                return None
            texts = self._nested(edges, parents, found)
        return self._with(jobs, texts)

    def _with(self, jobs: list[Claimed], texts: dict[UUID, str]) -> list[Claimed]:
        on_failure = [
            job.id for job in jobs if job.flags & Flag.TAKES_INPUT and job.flags & Flag.ON_FAILURE
        ]
        if on_failure:
            rows = self._db.rows(
                "id, input", f"FROM {TABLE} WHERE {{ids}}", self._db.keys(on_failure)
            )
            texts.update((self._db.to_uuid(key), text) for key, text in rows)
        return [
            job._replace(input=texts.get(job.id)) if job.flags & Flag.TAKES_INPUT else job
            for job in jobs
        ]

    def sizes(self, ids: Collection[UUID]) -> dict[UUID, int]:
        """Return, by child, the number of characters of its parents' results."""
        if not ids:
            return {}
        keys = self._db.keys(ids)
        rows = self._db.rows("child, size, collects", _SIZES, keys, "edge.child")
        sizes = {self._db.to_uuid(child): int(size) for child, size, _ in rows}
        if collecting := [child for child, _, collects in rows if collects]:
            pairs = self._db.rows("edge.child, edge.parent", _COLLECTORS, collecting, "edge.child")
            collected = self.sizes([self._db.to_uuid(parent) for _, parent in pairs])
            for child, parent in pairs:
                sizes[self._db.to_uuid(child)] += collected.get(self._db.to_uuid(parent), 0)
        return sizes

    def results(self, id: UUID) -> str | None:
        """Return the nested results of the parents of a job, or of a pipeline's id; None when one is missing."""
        return self._results([id]).get(id)

    def members(self, collector: UUID) -> tuple[UUID, int] | None:
        """Return the job that expands for a job that collects, and the number of its members; None if gone."""
        keys = self._db.keys([collector])
        count = f"FROM (SELECT count(*) AS parents FROM {EDGES} WHERE {{ids}}) AS each"
        [[parents]] = self._db.rows("parents", count, keys, "child")
        first = f"FROM {EDGES} WHERE {{ids}} AND result_path = '{NO_RESULT}'"
        rows = self._db.rows("parent", first, keys, "child")
        return (self._db.to_uuid(rows[0][0]), parents - 1) if rows else None

    def texts(self, ids: Sequence[UUID], *, tolerant: bool) -> list[str] | None:
        """Return the results of these jobs in their order; None if one is missing.

        Args:
            tolerant: whether the reason takes the place of a missing result.
        """
        keys = self._db.keys(ids)
        texts: _Texts = {id: text for id, text in self._db.rows("id, result", _RESULTS, keys)}  # noqa: C416  (pairs)
        missing = [key for key in keys if key not in texts]
        if missing and tolerant:
            for key, reason in self._causes.reasons(missing).items():
                texts[key] = codec.encode_value(reason, "a reason")
        found = [texts.get(key) for key in keys]
        return None if None in found else found  # type: ignore[return-value]  # none of them is None

    def _results(self, ids: Collection[UUID]) -> dict[UUID, str]:
        """Return the nested results of the parents by child, without the children that miss one of them."""
        if not ids:
            return {}
        edges = self._edges(ids)
        parents = {parent for _, parent, _ in edges}
        texts: _Texts = {id: text for id, text in self._db.rows("id, result", _RESULTS, parents)}  # noqa: C416  (pairs)
        if None in texts.values():
            self._collect(texts, edges)
        return self._nested(edges, parents, texts)

    def _edges(self, ids: Collection[UUID]) -> _Edges:
        return self._db.rows("child, parent, result_path", _EDGES, self._db.keys(ids), "child")

    def _nested(self, edges: _Edges, parents: Collection[Key], texts: _Texts) -> dict[UUID, str]:
        """Return the texts nested by child, without the children that miss one."""
        reasons: dict[Key, JobNotFinished] = {}
        if len(texts) < len(parents):
            tolerated = {p for _, p, path in edges if p not in texts and tolerates(path)}
            reasons = self._causes.reasons(tolerated)
        pieces: dict[Key, list[tuple[str, str | JobNotFinished | None]]] = defaultdict(list)
        for child, parent, path in edges:
            pieces[child].append((path, texts.get(parent) or reasons.get(parent)))
        return {
            self._db.to_uuid(child): nest(got)
            for child, got in pieces.items()
            if all(text is not None or not carries_result(path) for path, text in got)
        }

    def _collect(self, texts: _Texts, edges: _Edges) -> None:
        """Replace the missing results of the jobs that collect by the lists of their parents' results."""
        collecting = {
            parent
            for _, parent, path in edges
            if carries_result(path) and parent in texts and texts[parent] is None
        }
        collected = self._results(self._uuids(collecting))
        for parent in collecting:
            texts[parent] = collected.get(self._db.to_uuid(parent))

    def _uuids(self, keys: Iterable[Key]) -> list[UUID]:
        return [self._db.to_uuid(key) for key in keys]


def _with_parents(jobs: Sequence[Claimed]) -> list[UUID]:
    """Return the ids of the jobs whose input is in the rows of their parents."""
    return [
        job.id for job in jobs if job.flags & Flag.TAKES_INPUT and not job.flags & Flag.ON_FAILURE
    ]
