"""Sources: indexes that have all the jobs that a search can find, in the order of their ids.

A search along such an index reads few other jobs. An index in another order, as that of the running jobs, is a
source while it has few entries, which are then sorted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from djjp.engine.database import Database
from djjp.engine.rows import MISFIT, READY, SUSPECT, TABLE, TAGS, Key
from djjp.models import FINISHED, LIVE, Attempt, Flag, State

ATTEMPTS = Attempt._meta.db_table

#: The entries that are sorted at most, the parts that are merged at most, and the exception classes that are read.
MOST_SORTED, MOST_PARTS, MOST_CLASSES = 10_000, 50, 1_000
# Sources are compared by their number of entries, up to this one.
_MOST_COUNTED = 1_000

_WITHOUT_INDEX = {*FINISHED} - {State.FAILED}
_LIVE = ", ".join(f"'{state.value}'" for state in LIVE)

# Steps through an index from one value of a column to the next: the cost does not depend on the number of entries.
_DISTINCT = """WITH RECURSIVE found(value) AS (SELECT (SELECT {column} {rows} {order} LIMIT 1)
UNION ALL SELECT (SELECT {column} {rows} AND {column} {beyond} found.value {order} LIMIT 1) FROM found
WHERE found.value IS NOT NULL)
{selected} FROM (SELECT value FROM found WHERE value IS NOT NULL LIMIT {most}) AS first"""


class Wanted(NamedTuple):
    """The conditions of a search; None and an empty `states` stand for no condition.

    Attributes:
        states: the states, of which a job has one.
        name: the name, in which `*` stands for any characters and `?` for one.
        exception: the class of the exception of an attempt: dotted, or its last part.
        attempts: a relation, as "=" or ">", and the number of attempts.
    """

    states: Sequence[State] = ()
    queue: str | None = None
    name: str | None = None
    exception: str | None = None
    tag: str | None = None
    pipeline: UUID | None = None
    consumer: str | None = None
    unique_key: str | None = None
    attempts: tuple[str, int] | None = None


class Range(NamedTuple):
    """The ids of a search, without its two ends; None for no end."""

    above: Key | None = None
    below: Key | None = None

    def condition(self, column: str) -> tuple[str, list[Key]]:
        """Return the condition that a column is in it, and its parameters."""
        ends = [(">", self.above), ("<", self.below)]
        given = [(sign, key) for sign, key in ends if key is not None]
        texts = [f"{column} {sign} %s" for sign, _ in given] or ["true"]
        return " AND ".join(texts), [key for _, key in given]

    def behind(self, key: Key, *, newest_first: bool) -> Range:
        """Return the rest of it after a search has reached an id."""
        return self._replace(below=key) if newest_first else self._replace(above=key)


class Part(NamedTuple):
    """Some entries of an index that have the ids of jobs.

    Attributes:
        table: the table, with the index where this can be fixed.
        condition: the condition of the entries, and `params` its parameters.
        order: the columns of the index, as far as its order is that of the ids: the last one has the ids, and the
            others one value each; "-" marks a descending order.
        is_sorted: whether the index has the ids in order.
    """

    table: str
    condition: str
    params: Sequence[Any]
    order: Sequence[str]
    is_sorted: bool = True

    def first(
        self, limit: int, within: Range, *, newest_first: bool = True
    ) -> tuple[str, list[Any]]:
        """Return a SELECT of the first ids within a range, and its parameters.

        From an unsorted index it is a SELECT of all of them, in any order.
        """
        column = self.order[-1]
        if not self.is_sorted:
            # The range outside, so that no statistics make the planner prefer the primary key.
            between, keys = within.condition("id")
            every = f"SELECT {column} AS id FROM {self.table} WHERE {self.condition} LIMIT {2 * MOST_SORTED}"
            return f"SELECT id FROM ({every}) AS entries WHERE {between}", [*self.params, *keys]
        between, keys = within.condition(column)
        order = ", ".join(_directed(each, falling=newest_first) for each in self.order)
        select = f"SELECT {column} AS id FROM {self.table} WHERE {self.condition} AND {between}"
        return f"{select} ORDER BY {order} LIMIT {limit}", [*self.params, *keys]


def _directed(column: str, *, falling: bool) -> str:
    """Return a column of an index in ORDER BY, as a scan of the index in one direction has it."""
    name = column.removeprefix("-")
    return f"{name} DESC" if falling == (name == column) else f"{name} ASC"


class Source(NamedTuple):
    """The parts that have all jobs of a search, and the conditions that are left to test on the rows."""

    parts: Sequence[Part]
    rest: Wanted


class Sources:
    """Find the indexes that have all jobs of a search."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def best(self, wanted: Wanted, within: Range) -> Source | None:
        """Return the source with the fewest entries; None if only the primary key has all jobs."""
        found = [source for source in self._candidates(wanted) if self._is_usable(source.parts)]
        if len(found) < 2:
            return found[0] if found else None
        return min(found, key=lambda source: self._size(source.parts, within, _MOST_COUNTED))

    def classes(self, exception: str) -> list[str] | None:
        """Return the dotted names of an exception's classes; None if there are too many to search for them."""
        if "." in exception:
            return [exception]
        names = self.known_classes()
        if len(names) == MOST_CLASSES:
            return None
        return [name for name in names if name.rpartition(".")[2] == exception]

    def known_classes(self) -> list[str]:
        """Return the dotted names of the classes of all failed attempts, at most 1,000."""
        rows = f"FROM {self._db.indexed(ATTEMPTS, 'djjp_attempt_class')} WHERE true"
        return self._distinct(rows, [], ["exception_class"], MOST_CLASSES)

    # The candidates, the best ones of equal size first

    def _candidates(self, wanted: Wanted) -> Iterator[Source]:
        live = bool(wanted.states) and set(wanted.states) <= {*LIVE}
        if wanted.pipeline is not None:
            (pipeline,) = self._db.keys([wanted.pipeline])
            yield Source(
                [self._ordered(TABLE, "djjp_job_pipeline", ("pipeline", pipeline))], wanted
            )
        if wanted.unique_key is not None and live:
            condition = f"unique_key = %s AND unique_key IS NOT NULL AND state IN ({_LIVE})"
            part = self._unordered("djjp_job_unique_key", condition, [wanted.unique_key])
            yield Source([part], wanted)
        if wanted.consumer is not None and [*wanted.states] == [State.RUNNING]:
            condition = "state = 'running' AND consumer = %s"
            part = self._unordered("djjp_job_running", condition, [wanted.consumer])
            yield Source([part], wanted)
        if wanted.exception is not None:
            classes = self.classes(wanted.exception)
            if classes is not None and len(classes) <= MOST_PARTS:
                index = "djjp_attempt_class"
                same = (("exception_class", name) for name in classes)
                parts = [self._ordered(ATTEMPTS, index, each, "job_id") for each in same]
                yield Source(parts, wanted._replace(exception=None))
        if wanted.tag is not None:
            by_tag = "djjp_tag_live" if live else None
            condition = self._db.is_live_tag if live else "true"
            part = self._ordered(TAGS, by_tag, ("tag", wanted.tag), "job_id", condition)
            yield Source([part], wanted._replace(tag=None))
        if wanted.states and not _WITHOUT_INDEX & {*wanted.states}:
            found = (self._in_state(state, wanted.queue) for state in wanted.states)
            if len(parts := [part for parts in found for part in parts]) <= MOST_PARTS:
                yield Source(parts, wanted)

    def _in_state(self, state: State, queue: str | None) -> Iterator[Part]:
        """Yield the parts that have the jobs in one state other than "succeeded" and "cancelled"."""
        if state == State.FAILED:
            table = self._db.indexed(TABLE, "djjp_job_failed")
            yield Part(table, "state = 'failed'", [], ["id"])
        elif state == State.RUNNING:
            yield self._unordered("djjp_job_running", "state = 'running'", [])
        elif state == State.READY:
            yield from self._ready(queue)
        else:
            condition = f"{self._db.is_one.format('state', repr(state.value))} AND claim >= 0"
            table = self._db.indexed(TABLE, "djjp_job_waiting")
            yield Part(table, condition, [], ["state", "id"])

    def _ready(self, queue: str | None) -> Iterator[Part]:
        """Yield the ready jobs of each priority, and those that a claim of others does not read."""
        index, condition, params, order = "djjp_job_ready", READY, list[Any](), ["-priority"]
        if queue is not None:
            is_queue = self._db.is_one.format("queue", "%s")
            index, condition = "djjp_job_ready_queue", f"{READY} AND {is_queue}"
            params, order = [queue] * is_queue.count("%s"), ["queue", "-priority"]
        table = self._db.indexed(TABLE, index)
        is_priority = self._db.is_one.format("priority", "%s")
        rows = f"FROM {table} WHERE {condition}"
        for priority in self._distinct(rows, params, order, MOST_PARTS + 1):
            values = [*params, *[priority] * is_priority.count("%s")]
            yield Part(table, f"{condition} AND {is_priority}", values, [*order, "id"])
        also, params = ("", []) if queue is None else (" AND queue = %s", [queue])
        yield self._unordered("djjp_job_suspect", f"{SUSPECT}{also}", params)
        yield self._unordered("djjp_job_misfit", MISFIT, [])

    def _ordered(
        self,
        table: str,
        index: str | None,
        same: tuple[str, Any],
        column: str = "id",
        condition: str = "true",
    ) -> Part:
        """Return the entries of an index with one value in its first column."""
        first, value = same
        is_one = self._db.is_one.format(first, "%s")
        params = [value] * is_one.count("%s")
        return Part(
            self._db.indexed(table, index), f"{condition} AND {is_one}", params, [first, column]
        )

    def _unordered(self, index: str, condition: str, params: Sequence[Any]) -> Part:
        """Return the entries of an index that has the ids in no order."""
        table, few = self._db.indexed(TABLE, index), self._db.expects_few
        return Part(table, f"{condition} AND {few}", params, ["id"], is_sorted=False)

    # Reads of an index

    def _is_usable(self, parts: Sequence[Part]) -> bool:
        unsorted = [part for part in parts if not part.is_sorted]
        return self._size(unsorted, Range(), MOST_SORTED + 1) <= MOST_SORTED

    def _size(self, parts: Sequence[Part], within: Range, most: int) -> int:
        """Return the number of entries, `most` for more."""
        if not parts:
            return 0
        select, params = union(part.first(most, within) for part in parts)
        with self._db.connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM ({select} LIMIT {most}) AS first", params)
            return int(cursor.fetchone()[0])

    def _distinct(
        self, rows: str, params: Sequence[Any], order: Sequence[str], most: int
    ) -> list[Any]:
        """Return the first distinct values of the last column in the order of an index."""
        column = order[-1].removeprefix("-")
        statement = _DISTINCT.format(
            column=column,
            rows=rows,
            order="ORDER BY " + ", ".join(_directed(each, falling=False) for each in order),
            beyond=">" if column == order[-1] else "<",
            most=most,
            selected=self._db.select("value"),
        )
        with self._db.connection.cursor() as cursor:
            cursor.execute(statement, [*params, *params])
            return [value for (value,) in self._db.fetch(cursor)]


def union(selects: Iterable[tuple[str, list[Any]]]) -> tuple[str, list[Any]]:
    """Return a SELECT of the ids that any of some SELECTs returns, and its parameters."""
    texts, params = zip(*selects, strict=True)
    text = " UNION ALL ".join(f"SELECT id FROM ({text}) AS part" for text in texts)
    return f"SELECT id FROM ({text}) AS parts", [value for values in params for value in values]


def conditions(db: Database, wanted: Wanted) -> tuple[str, list[Any]]:
    """Return the conditions of a search for a row `job`, and their parameters."""
    terms: list[tuple[str, list[Any]]] = [(f"job.flags & {Flag.UNLISTED} = 0", [])]
    if wanted.states:
        signs = ", ".join(["%s"] * len(wanted.states))
        terms.append((f"job.state IN ({signs})", [state.value for state in wanted.states]))
    if wanted.name is not None:
        terms.append(_name(db, wanted.name))
    if wanted.exception is not None:
        terms.append(_exception(wanted.exception))
    if wanted.tag is not None:
        tagged = f"FROM {TAGS} AS tagged WHERE tagged.tag = %s AND tagged.job_id = job.id"
        terms.append((_EXISTS.format(tagged), [wanted.tag]))
    if wanted.pipeline is not None:
        terms.append(("job.pipeline = %s", db.keys([wanted.pipeline])))
    if wanted.attempts is not None:
        relation, number = wanted.attempts
        terms.append((f"job.attempts {_RELATIONS[relation]} %s", [number]))
    same = ((column, getattr(wanted, column)) for column in ("queue", "consumer", "unique_key"))
    terms += [(f"job.{column} = %s", [value]) for column, value in same if value is not None]
    return " AND ".join(text for text, _ in terms), [each for _, values in terms for each in values]


# One look-up for each job: for an EXISTS a planner can prefer to read all tags or attempts that it finds.
_EXISTS = "(SELECT 1 {} LIMIT 1) IS NOT NULL"

_RELATIONS = {relation: relation for relation in ("=", "<", "<=", ">", ">=")}


def _name(db: Database, name: str) -> tuple[str, list[Any]]:
    if not {"*", "?"} & {*name}:
        return "job.name = %s", [name]
    return db.is_like.format("job.name"), [db.like(name)]


def _exception(exception: str) -> tuple[str, list[Any]]:
    attempts = f"FROM {ATTEMPTS} AS failed WHERE failed.job_id = job.id AND"
    is_class, values = "failed.exception_class = %s", [exception]
    if "." not in exception:
        last = f"length(failed.exception_class) - {len(exception)}"
        is_class = f"({is_class} OR substr(failed.exception_class, {last}) = %s)"
        values.append(f".{exception}")
    return _EXISTS.format(f"{attempts} {is_class}"), values
