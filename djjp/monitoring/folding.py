"""Folding: a pipeline of any size as a graph that is small enough to be drawn.

Jobs with the same name and the same place in the graph, as the members of a group or an expansion, are *alike*.
More than 12 of them are one node, with the number of jobs in each state. So are more than 12 steps one after the
other, except steps that failed or run. If that leaves too many nodes, alike jobs of several names are one node, or
in the end all jobs of a part of the pipeline.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from djjp.engine import Graph, Step
from djjp.engine.result_paths import NO_RESULT, ON_FAILURE
from djjp.models import Flag, State

#: The number of jobs that are alike, or one after the other, up to which each is drawn.
FEW = 12
#: The number of nodes at most, and of the parts of a pipeline that no other folding makes small enough.
MOST_NODES, PARTS = 200, 40
# The steps in a folded row of steps that are drawn nevertheless.
_MOST_SHOWN = 5
# The nodes of rows that stand for no job of a user, up to which these are taken out one by one.
_MOST_HIDDEN = 2_000

#: The states in the order of the attention that they need.
BY_ATTENTION = (
    *(State.FAILED, State.CANCELLED, State.RUNNING),
    *(State.READY, State.SCHEDULED, State.BLOCKED, State.SUCCEEDED),
)
#: Counted in place of the state of an `on_failure` job that ended because nothing had failed.
NOT_NEEDED = "not needed"


class Fold(StrEnum):
    """The kinds of nodes: one step, steps that are alike, steps one after the other, or a part of the pipeline."""

    STEP = "step"
    ALIKE = "alike"
    ROW = "row"
    PART = "part"


class Node(NamedTuple):
    """One or several jobs of a pipeline.

    Attributes:
        steps: its jobs.
        names: the names of its jobs, the most frequent one first.
        counts: the number of its jobs in each state, in the order of `BY_ATTENTION`.
        depth: the number of nodes before it on the longest way to it.
    """

    fold: Fold
    steps: Sequence[Step]
    names: Sequence[str]
    counts: dict[str, int]
    is_on_failure: bool
    depth: int


class Folded(NamedTuple):
    """A graph of nodes.

    Attributes:
        edges: parent and child by their places, and whether the child runs only on a failure.
    """

    nodes: list[Node]
    edges: list[tuple[int, int, bool]]


def state_of(step: Step) -> str:
    """Return the state under which a job is counted."""
    return NOT_NEEDED if step.is_not_needed else step.state


def counted(steps: Iterable[Step]) -> dict[str, int]:
    """Return the number of jobs in each state, in the order of the attention that they need."""
    counts: Counter[str] = Counter()
    for (state, flags), number in Counter((step.state, step.flags) for step in steps).items():
        not_needed = flags & Flag.ON_FAILURE and flags & Flag.UNLISTED
        counts[NOT_NEEDED if not_needed else state] += number
    known = [state.value for state in BY_ATTENTION if state in counts]
    return {state: counts[state] for state in [*known, *sorted(counts.keys() - {*known})]}


def fold(graph: Graph) -> Folded:
    """Return the graph of a pipeline with at most about 200 nodes."""
    links = _Links(graph)
    for base in (_by_name, _kind):
        groups = _alike(links, base)
        if sum(places[0] in links.hidden for places in groups.members) <= _MOST_HIDDEN:
            groups = _without_hidden(links, groups)
            groups = _rows_folded(links, groups)
            if len(groups.members) <= MOST_NODES:
                return _drawn(links, groups)
    return _drawn(links, _without_hidden(links, _parts(links)))


class _Links:
    """The jobs of a graph with their neighbours; the members of an expansion come behind the job that expands."""

    def __init__(self, graph: Graph) -> None:
        self.steps = graph.steps
        self.parents: list[dict[int, bool]] = [{} for _ in graph.steps]
        self.children: list[dict[int, bool]] = [{} for _ in graph.steps]
        collectors: dict[int, int] = {}  # the one that expands, by the one that collects
        for parent, child, path in graph.edges:
            of, to = self.steps[parent].flags, self.steps[child].flags
            if path == NO_RESULT and of & Flag.EXPANDS and to & Flag.COLLECTS:
                collectors[child] = parent
            else:
                self._link(parent, child, is_on_failure=path == ON_FAILURE)
        for collects, expands in collectors.items():
            members = list(self.parents[collects])
            for member in members:
                if expands < member:
                    self._link(expands, member)
            if not members:
                self._link(expands, collects)
        # The row that has expanded is shown only if it stands for no jobs.
        self.hidden = {
            place
            for place, step in enumerate(self.steps)
            if step.is_hidden and (step.flags & Flag.COLLECTS or not self._is_empty(place))
        }

    def _link(self, parent: int, child: int, *, is_on_failure: bool = False) -> None:
        self.children[parent][child] = self.parents[child][parent] = is_on_failure

    def _is_empty(self, expands: int) -> bool:
        return all(self.steps[child].flags & Flag.COLLECTS for child in self.children[expands])


class _Groups(NamedTuple):
    """The jobs of each node, and the edges between the nodes by their places."""

    members: list[list[int]]
    folds: list[Fold]
    edges: dict[tuple[int, int], bool]


def _by_name(step: Step) -> Hashable:
    return step.name, *_kind(step)


def _kind(step: Step) -> tuple[bool, bool, bool]:
    return step.is_on_failure, step.is_hidden, bool(step.flags & Flag.EXPANDS)


def _alike(links: _Links, base: Callable[[Step], Hashable]) -> _Groups:
    """Return groups of jobs that are alike: with neighbours that are alike, on both sides."""
    by_kind: dict[tuple[str, int], Hashable] = {}
    bases = []
    for step in links.steps:
        kind = step.name, step.flags
        if kind not in by_kind:
            by_kind[kind] = base(step)
        bases.append(by_kind[kind])
    places = range(len(bases))
    from_above = _colours(bases, links.parents, places)
    from_below = _colours(bases, links.children, reversed(places))
    found: dict[Hashable, list[int]] = defaultdict(list)
    for place in places:
        found[from_above[place], from_below[place]].append(place)
    members: list[list[int]] = []
    folds: list[Fold] = []
    for alike in found.values():
        if len(alike) > FEW:
            members.append(alike)
            folds.append(Fold.ALIKE)
        else:
            members += [[place] for place in alike]
            folds += [Fold.STEP] * len(alike)
    return _Groups(members, folds, _edges(links, members))


def _colours(
    bases: Sequence[Hashable], neighbours: Sequence[dict[int, bool]], order: Iterable[int]
) -> list[int]:
    """Return a number for each job, equal for jobs whose neighbours in one direction are alike."""
    numbers: dict[Hashable, int] = {}
    colours = [0] * len(bases)
    for place in order:
        around = frozenset((colours[other], kind) for other, kind in neighbours[place].items())
        colours[place] = numbers.setdefault((bases[place], around), len(numbers))
    return colours


def _edges(links: _Links, members: Sequence[Sequence[int]]) -> dict[tuple[int, int], bool]:
    node = {place: number for number, places in enumerate(members) for place in places}
    return {
        (node[parent], node[child]): kind
        for child, parents in enumerate(links.parents)
        for parent, kind in parents.items()
        if node[parent] != node[child]
    }


def _without_hidden(links: _Links, groups: _Groups) -> _Groups:
    """Take the nodes out that stand for no job of a user, and join their parents to their children."""
    hidden = [n for n, places in enumerate(groups.members) if links.hidden.issuperset(places)]
    above, below = _neighbours(groups.edges)
    for node in hidden:
        for parent in above[node]:
            for child, kind in below[node].items():
                below[parent][child] = above[child][parent] = kind
        for parent in above.pop(node):
            del below[parent][node]
        for child in below.pop(node):
            del above[child][node]
    kept = [node for node in range(len(groups.members)) if node not in {*hidden}]
    new = {node: number for number, node in enumerate(kept)}
    return _Groups(
        [[p for p in groups.members[node] if p not in links.hidden] for node in kept],
        [groups.folds[node] for node in kept],
        {
            (new[parent], new[child]): kind
            for parent, children in below.items()
            for child, kind in children.items()
        },
    )


_Sides = defaultdict[int, dict[int, bool]]


def _neighbours(edges: dict[tuple[int, int], bool]) -> tuple[_Sides, _Sides]:
    above: _Sides = defaultdict(dict)
    below: _Sides = defaultdict(dict)
    for (parent, child), kind in edges.items():
        below[parent][child] = above[child][parent] = kind
    return above, below


def _rows_folded(links: _Links, groups: _Groups) -> _Groups:
    """Fold steps one after the other, except the first, the last, and some that failed or run."""
    above, below = _neighbours(groups.edges)

    def is_inner(node: int) -> bool:
        return groups.folds[node] is Fold.STEP and len(above[node]) == len(below[node]) == 1

    folded_into: dict[int, int] = {}
    shown = 0
    for first in range(len(groups.members)):
        if not is_inner(first) or is_inner(next(iter(above[first]))):
            continue
        row = [first]
        while is_inner(following := next(iter(below[row[-1]]))):
            row.append(following)
        if len(row) <= FEW:
            continue
        head = None
        for node in row[1:-1]:
            state = links.steps[groups.members[node][0]].state
            if state in (State.FAILED, State.RUNNING) and shown < _MOST_SHOWN:
                shown, head = shown + 1, None
            else:
                head = node if head is None else head
                folded_into[node] = head
    return _merged(groups, folded_into) if folded_into else groups


def _merged(groups: _Groups, into: dict[int, int]) -> _Groups:
    kept = [n for n in range(len(groups.members)) if into.get(n, n) == n]
    new = {node: number for number, node in enumerate(kept)}
    place_of = {n: new[into.get(n, n)] for n in range(len(groups.members))}
    members: list[list[int]] = [[] for _ in kept]
    for node, places in enumerate(groups.members):
        members[place_of[node]] += places
    folds = [
        Fold.ROW if len(members[new[node]]) > len(groups.members[node]) else groups.folds[node]
        for node in kept
    ]
    pairs = {
        (place_of[parent], place_of[child]): kind
        for (parent, child), kind in groups.edges.items()
        if place_of[parent] != place_of[child]
    }
    return _Groups(members, folds, pairs)


def _parts(links: _Links) -> _Groups:
    """Return at most 40 groups of jobs by the number of jobs before them, and as many of `on_failure` jobs."""
    depths = [0] * len(links.steps)
    for place, parents in enumerate(links.parents):
        depths[place] = max((depths[parent] + 1 for parent in parents), default=0)
    width = max(depths, default=0) // PARTS + 1
    found: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for place, step in enumerate(links.steps):
        found[depths[place] // width, step.is_on_failure].append(place)
    members = [found[key] for key in sorted(found)]
    folds = [Fold.PART if len(places) > 1 else Fold.STEP for places in members]
    # Forward only: an `on_failure` job can have dependents in the part that it is in itself.
    edges = {pair: kind for pair, kind in _edges(links, members).items() if pair[0] < pair[1]}
    return _Groups(members, folds, edges)


def _drawn(links: _Links, groups: _Groups) -> Folded:
    # Parents first, as the jobs are.
    order = sorted(range(len(groups.members)), key=lambda node: groups.members[node][0])
    above, _ = _neighbours(groups.edges)
    depths: dict[int, int] = {}

    def depth(node: int) -> int:
        waiting = [node]
        while waiting:
            at = waiting[-1]
            if unknown := [parent for parent in above[at] if parent not in depths]:
                waiting += unknown
                continue
            depths[at] = max((depths[parent] + 1 for parent in above[at]), default=0)
            waiting.pop()
        return depths[node]

    nodes = []
    for node in order:
        steps = [links.steps[place] for place in groups.members[node]]
        names = [name for name, _ in Counter(step.name for step in steps).most_common()]
        is_on_failure = all(step.is_on_failure for step in steps)
        counts = counted(steps)
        nodes.append(Node(groups.folds[node], steps, names, counts, is_on_failure, depth(node)))
    new = {node: number for number, node in enumerate(order)}
    edges = sorted((new[a], new[b], kind) for (a, b), kind in groups.edges.items())
    return Folded(nodes, edges)
