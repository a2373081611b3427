"""The execution of the two jobs of an `expand()`: one makes a job of each item, the other collects their results.

They run in the consumer as other jobs do, on a thread, but no function of theirs. See `djjp.engine.expansion`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from functools import partial
from typing import Any
from uuid import UUID

from djjp import bounds, codec, engine
from djjp.engine import Claimed, NewJob
from djjp.engine.result_paths import TOLERANT
from djjp.jobs import RegisteredJob, constraints, registry
from djjp.jobs.current import CurrentJob
from djjp.models import Flag, OnCrash

#: The number of members that one transaction writes, and the characters of arguments at which it ends earlier.
MEMBERS_AT_ONCE = 500
SIZE_AT_ONCE = 4_000_000
#: The number of results that one transaction reads. A reason in place of a result takes some 50 µs.
COLLECTED_AT_ONCE = 1000
#: The characters of a list of results that is stored. A longer one is read in the turn that claims the next step.
STORED_AT_MOST = 64_000_000

# What the members have from the step.
_COPIED = Flag.EXPIRES | Flag.OPTIONS | Flag.TAGGED | Flag.CONTEXT

_ARGS = '"args":['


def run(claimed: Claimed, current: CurrentJob) -> str | None:
    """Run a job that expands or collects, and return its result. Set `current.cancelled` if it must stop.

    Raises:
        TypeError: the step before has returned no list; or no key of a limit can be built for an item.
        PayloadTooLarge: the arguments of a member are too large.
        LookupError: the input, or the function's registration, is missing.
    """
    if claimed.flags & Flag.COLLECTS:
        return _collect(claimed)
    _expand(claimed, current)
    return None


def _collect(claimed: Claimed) -> str | None:
    """Return the list of the members' results; None if it is too long to be stored: see `djjp.engine.inputs`."""
    found = engine.run(lambda engine: engine.inputs.members(claimed.id))
    if found is None:
        return None
    expands, count = found
    tolerant = bool(claimed.flags & Flag.TOLERATES)
    texts: list[str] = []
    size = 2
    for start in range(0, count, COLLECTED_AT_ONCE):
        ids = [_member_id(expands, n) for n in range(start, min(start + COLLECTED_AT_ONCE, count))]
        piece = engine.run(partial(_texts, ids=ids, tolerant=tolerant))
        size += sum(len(text) + 1 for text in piece or ())
        if piece is None or size > STORED_AT_MOST:
            return None
        texts += piece
    return f"[{','.join(texts)}]"


def _texts(engine: engine.Engine, ids: list[UUID], *, tolerant: bool) -> list[str] | None:
    return engine.inputs.texts(ids, tolerant=tolerant)


def _expand(claimed: Claimed, current: CurrentJob) -> None:
    """Write the members."""
    items = _items(claimed)
    template = engine.run(lambda engine: engine.expansion.template(claimed))
    if template is None:
        return current.cancel()
    written = 0
    for members in _pieces(_members(claimed, template, items)):
        written += len(members)
        is_last = written == len(items)
        add = partial(_add, claimed=claimed, members=members, is_last=is_last)
        if current.cancelled or not engine.run(add):
            return current.cancel()
        current.progress(written, len(items))
    return None


def _member_id(expands: UUID, index: int) -> UUID:
    return UUID(int=expands.int + 1 + index)


def _add(
    engine: engine.Engine, claimed: Claimed, members: list[tuple[NewJob, str]], *, is_last: bool
) -> bool:
    return engine.expansion.add(claimed, members, is_last=is_last)


def _items(claimed: Claimed) -> list[Any]:
    if claimed.input is None:
        raise LookupError("the step before this one in the pipeline has no result any more")
    value = codec.decode_value(claimed.input)
    if isinstance(value, (list, tuple)):
        return list(value)
    raise TypeError(
        f"expand({claimed.name}) makes a job of each item of the list that the step before returns; "
        f"that step returned {reprlib.repr(value)} of type {type(value).__name__}"
    )


def _members(claimed: Claimed, template: NewJob, items: list[Any]) -> Iterator[tuple[NewJob, str]]:
    job = registry.get(claimed.name, claimed.arguments)
    tolerant = bool(claimed.flags & Flag.TOLERATES)
    options = job.options.replaced(unique_key=None, expires_after=None)
    flags = Flag.HAS_DEPENDENTS | Flag.FOLLOWS | template.flags & _COPIED
    member = template._replace(on_crash=OnCrash(options.on_crash), flags=flags)
    for index, item in enumerate(items):
        row = member._replace(
            id=_member_id(claimed.id, index), arguments=_arguments(claimed, job, item)
        )
        if options.has_constraints:
            row = constraints.apply(options, job.signature, row)
        yield row, f"{index}{TOLERANT}" if tolerant else str(index)


def _arguments(claimed: Claimed, job: RegisteredJob[..., Any], item: Any) -> str:
    """Return the arguments of the step with an item before them."""
    head, args, rest = claimed.arguments.partition(_ARGS)
    if not args:
        raise ValueError(f"these are not the arguments of a job: {reprlib.repr(claimed.arguments)}")
    comma = "" if rest.startswith("]") else ","
    text = f"{head}{args}{codec.encode_value(item, 'item')}{comma}{rest}"
    bounds.require_arguments(
        text, [item], {}, lambda: [next(iter(job.signature.parameters), "item")]
    )
    return text


def _pieces(members: Iterator[tuple[NewJob, str]]) -> Iterator[list[tuple[NewJob, str]]]:
    """Return the members in pieces; one that is empty, if there is no member."""
    piece: list[tuple[NewJob, str]] = []
    size = 0
    for member in members:
        if len(piece) == MEMBERS_AT_ONCE or size >= SIZE_AT_ONCE:
            yield piece
            piece, size = [], 0
        piece.append(member)
        size += len(member[0].arguments)
    yield piece
