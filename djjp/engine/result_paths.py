"""Result paths: where the result of a parent goes in the input of its child.

=============== ==================================================================================
`""`            the whole input
`"2"`, `"0/3"`  a place in a list, and in a list in a list, nested as the groups are
`"2?"`          the same in a group with `return_exceptions`: the reason takes a missing result's place
`"-"`, `"0/-"`  nothing: the child waits for the parent, and needs its success
`"!"`           nothing: an `on_failure` job, which needs the parent not to succeed
=============== ==================================================================================

A parent that does not succeed is tolerated by the nearest place with a `?` around it. An edge without such a place
cancels its child.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from djjp import codec
from djjp.exceptions import JobNotFinished

#: The result path of an edge to an `on_failure` job.
ON_FAILURE = "!"
#: The last part of a path that carries no result.
NO_RESULT = "-"
#: The mark of a place whose missing result is replaced by the reason.
TOLERANT = "?"

#: The condition that an edge tolerates that its parent does not succeed, and the one that it does not.
IS_TOLERANT = f"replace(edge.result_path, '{TOLERANT}', '') <> edge.result_path"
NEEDS_SUCCESS = f"NOT ({IS_TOLERANT}) AND edge.result_path <> '{ON_FAILURE}'"


def tolerates(path: str) -> bool:
    """Return whether an edge with this path tolerates that its parent does not succeed."""
    return TOLERANT in path


def carries_result(path: str) -> bool:
    """Return whether an edge with this path passes the result of its parent on."""
    return not path.endswith(NO_RESULT) and path != ON_FAILURE


def nest(pieces: Iterable[tuple[str, str | JobNotFinished | None]]) -> str:
    """Join the JSON texts of results by their paths into one.

    The text with the path "" is returned as it is; the others become lists, nested by the places in their paths.

    Args:
        pieces: each path with the result, or with the reason why there is none.

    Raises:
        JobNotFinished: a result is missing that no place tolerates.
    """
    lists: dict[str, list[tuple[str, str | JobNotFinished | None]]] = defaultdict(list)
    whole = None
    for path, text in pieces:
        if isinstance(text, JobNotFinished) and TOLERANT not in path:
            raise text
        if not path:
            whole = text
            continue
        place, _, rest = path.partition("/")
        if place != NO_RESULT:
            lists[place].append((rest, text))
    if isinstance(whole, str):
        return whole
    return f"[{','.join([_at(place, lists[place]) for place in sorted(lists, key=_index)])}]"


def _at(place: str, pieces: list[tuple[str, str | JobNotFinished | None]]) -> str:
    if len(pieces) == 1 and pieces[0][0] == "" and isinstance(pieces[0][1], str):
        return pieces[0][1]  # as at most places, and quicker
    if not place.endswith(TOLERANT):
        return nest(pieces)
    try:
        return nest(pieces)
    except JobNotFinished as reason:
        return codec.encode_value(reason, "a reason")


def _index(place: str) -> int:
    return int(place.removesuffix(TOLERANT))
