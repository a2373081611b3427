"""What the steps of a pipeline receive: the results of those that they wait for, read when they are claimed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from uuid import UUID

from djjp.engine.database import TABLE
from djjp.engine.pipelines import EDGES, Graph, Key
from djjp.engine.records import ON_FAILURE, Claimed
from djjp.models import Flag


class Received(Graph):
    """Verbs that bring results together."""

    def handed(self, jobs: list[Claimed]) -> list[Claimed]:
        """Claimed jobs, those that receive something with it."""
        receiving = [job for job in jobs if job.flags & Flag.TAKES_INPUT]
        if not receiving:
            return jobs
        told = [job.id for job in receiving if job.flags & Flag.ON_FAILURE]
        texts = self._results([job.id for job in receiving if not job.flags & Flag.ON_FAILURE])
        if told:
            rows = self._rows("id, input", f"FROM {TABLE} WHERE {{ids}}", self._keys(told))
            texts.update((self._uuid(key), text) for key, text in rows)
        return [
            job._replace(input=texts.get(job.id)) if job.flags & Flag.TAKES_INPUT else job
            for job in jobs
        ]

    def results(self, id: UUID) -> str | None:
        """What comes together at a job, or at a pipeline's own id; None when a part of it is not there."""
        return self._results([id]).get(id)

    def _results(self, ids: Collection[UUID]) -> dict[UUID, str]:
        """By child, the results of its parents; a child is left out when one of them is not there."""
        if not ids:
            return {}
        edges = self._rows(
            "child, parent, result_path",
            f"FROM {EDGES} WHERE {{ids}} AND result_path <> '{ON_FAILURE}'",
            self._keys(ids),
            "child",
        )
        results = self._rows(
            "id, result",
            f"FROM {TABLE} WHERE {{ids}} AND state = 'succeeded'",
            {parent for _, parent, _ in edges},
        )
        texts: dict[Key, str] = dict(results)  # type: ignore[arg-type]  # pairs
        pieces: dict[Key, list[tuple[str, str | None]]] = defaultdict(list)
        for child, parent, place in edges:
            pieces[child].append((place, texts.get(parent)))
        return {
            self._uuid(child): composed(got)  # type: ignore[arg-type]  # none of them is None
            for child, got in pieces.items()
            if all(text is not None for _, text in got)
        }


def composed(pieces: Iterable[tuple[str, str]]) -> str:
    """JSON texts as one: that of the place "" as it is, others in lists that are nested as their places say."""
    lists: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for place, text in pieces:
        if not place:
            return text
        head, _, rest = place.partition("/")
        lists[int(head)].append((rest, text))
    return f"[{','.join(composed(lists[index]) for index in sorted(lists))}]"
