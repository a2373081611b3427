"""The picture of a pipeline: where each node of its folded graph is drawn, and the arrows between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from djjp.admin import display
from djjp.engine import Step
from djjp.models import Flag, State
from djjp.monitoring.folding import NOT_NEEDED, Fold, Folded, Node, state_of

# In pixels: a node, the gaps between nodes, a line of its text, and the margin of the picture.
WIDTH, ACROSS, DOWN = 210, 64, 18
TOP, LINE, BOTTOM = 26, 18, 8
MARGIN = 12
# The characters of a name that fit into a node, and the height of the bar of a folded one.
_FITTING, _BAR = 25, 6

#: The words of states that are counted in a node or a table.
LABELS: dict[str, str | Promise] = {
    **{state.value: state.label for state in State},
    NOT_NEEDED: gettext_lazy("Not needed"),
}


class Line(NamedTuple):
    """A line of a node: the number of its jobs in a state, and the address of a list of them."""

    state: str
    text: str
    url: str
    y: int


class Share(NamedTuple):
    """A part of the bar of a folded node."""

    x: int
    width: int
    state: str


class Box(NamedTuple):
    """A node as it is drawn.

    Attributes:
        name: its text, cut to the width of the node; `title` has the whole one.
        state: the state that its border shows: the one that needs the most attention.
        url: the page of its one job; "" for a folded node, whose lines have links.
    """

    x: int
    y: int
    height: int
    name: str
    title: str
    note: str
    state: str
    url: str
    lines: Sequence[Line]
    bar: Sequence[Share]
    is_folded: bool
    is_on_failure: bool

    @property
    def left(self) -> int:
        """The left edge of its text."""
        return self.x + 12

    @property
    def name_y(self) -> int:
        """The base line of its name."""
        return self.y + 20

    @property
    def note_y(self) -> int:
        """The base line of its note."""
        return self.y + TOP + 12

    @property
    def bar_y(self) -> int:
        """The upper edge of its bar."""
        return self.y + self.height - BOTTOM - _BAR

    @property
    def width(self) -> int:
        """The width of every node."""
        return WIDTH


class Arrow(NamedTuple):
    """An arrow from one node to another."""

    path: str
    is_on_failure: bool


class Picture(NamedTuple):
    """A drawing of its size, with what it shows in words."""

    width: int
    height: int
    boxes: Sequence[Box]
    arrows: Sequence[Arrow]
    description: str


def picture(
    graph: Folded, job_url: Callable[[Step], str], list_url: Callable[[Node, str], str]
) -> Picture:
    """Return the drawing of a folded graph, from left to right.

    Args:
        job_url: returns the address of a job's page.
        list_url: returns the address of the list of a node's jobs in a state.
    """
    places = _places(graph)
    boxes = [
        _box(node, *places[number], job_url, list_url) for number, node in enumerate(graph.nodes)
    ]
    arrows = [Arrow(_curve(boxes[a], boxes[b]), kind) for a, b, kind in graph.edges]
    jobs = sum(len(node.steps) for node in graph.nodes)
    return Picture(
        width=max((box.x + WIDTH for box in boxes), default=0) + MARGIN,
        height=max((box.y + box.height for box in boxes), default=0) + MARGIN,
        boxes=boxes,
        arrows=arrows,
        description=ngettext(
            "%(jobs)s job in %(nodes)s nodes; the list of the steps has the same in words.",
            "%(jobs)s jobs in %(nodes)s nodes; the list of the steps has the same in words.",
            jobs,
        )
        % {"jobs": display.number(jobs), "nodes": display.number(len(boxes))},
    )


def _places(graph: Folded) -> dict[int, tuple[int, int]]:
    """Return the left upper corner of each node: a column for each depth, in the order of the parents."""
    columns: dict[int, list[int]] = defaultdict(list)
    for number, node in enumerate(graph.nodes):
        columns[node.depth].append(number)
    parents: dict[int, list[int]] = defaultdict(list)
    for parent, child, _kind in graph.edges:
        parents[child].append(parent)
    middles: dict[int, float] = {}
    tops: dict[int, tuple[int, int]] = {}
    heights = {depth: _height_of(graph, column) for depth, column in columns.items()}
    tallest = max(heights.values(), default=0)
    for depth in sorted(columns):
        column = columns[depth]
        wanted = {
            n: sum(middles[p] for p in parents[n]) / len(parents[n]) if parents[n] else -1.0
            for n in column
        }
        column.sort(key=lambda n: (graph.nodes[n].is_on_failure, wanted[n], n))
        y = MARGIN + (tallest - heights[depth]) // 2
        for number in column:
            height = _height(graph.nodes[number])
            tops[number] = MARGIN + depth * (WIDTH + ACROSS), y
            middles[number] = y + height / 2
            y += height + DOWN
    return tops


def _height_of(graph: Folded, column: Sequence[int]) -> int:
    return sum(_height(graph.nodes[n]) + DOWN for n in column) - DOWN


def _height(node: Node) -> int:
    lines = 1 if node.fold is Fold.STEP else len(node.counts)
    bar = 0 if node.fold is Fold.STEP else _BAR + 6
    return TOP + LINE * (lines + bool(_note(node))) + bar + BOTTOM


def _note(node: Node) -> str:
    if node.is_on_failure:
        return _("only on failure")
    if node.fold is Fold.ROW:
        return _("one after the other")
    if len(node.names) > 1:
        return _("of %(number)s names") % {"number": display.number(len(node.names))}
    if node.fold is Fold.STEP and node.steps[0].flags & Flag.EXPANDS:
        return _("no items") if node.steps[0].is_hidden else _("one job for each item")
    return ""


def _box(
    node: Node,
    x: int,
    y: int,
    job_url: Callable[[Step], str],
    list_url: Callable[[Node, str], str],
) -> Box:
    is_folded = node.fold is not Fold.STEP
    name = display.lines(node.names[0])
    note = _note(node)
    title = f"{display.number(len(node.steps))} × {name}" if is_folded else name
    lines = [
        Line(
            state,
            f"{display.number(number)} {LABELS.get(state, state)}"
            if is_folded
            else state_label(node.steps[0]),
            list_url(node, state) if is_folded and state != NOT_NEEDED else "",
            y + TOP + LINE * (number_of_line + bool(note)) + 12,
        )
        for number_of_line, (state, number) in enumerate(node.counts.items())
    ]
    return Box(
        x=x,
        y=y,
        height=_height(node),
        name=_cut(name, f"{display.number(len(node.steps))} × " if is_folded else ""),
        title=title,
        note=note,
        state=lines[0].state.replace(" ", "-"),
        url="" if is_folded else job_url(node.steps[0]),
        lines=lines,
        bar=_bar(node, x) if is_folded else (),
        is_folded=is_folded,
        is_on_failure=node.is_on_failure,
    )


def state_label(step: Step) -> str:
    """Return the state of a job in words, with what is special about it."""
    label = LABELS.get(state_of(step), step.state)
    if step.is_cancelling:
        return _("%(state)s, cancelling") % {"state": label}
    if step.attempts > 1:
        attempts = ngettext("%(number)s attempt", "%(number)s attempts", step.attempts)
        return f"{label}, {attempts % {'number': display.number(step.attempts)}}"
    return str(label)


def _cut(name: str, before: str) -> str:
    """Return a name that fits: the last part of a dotted name says the most."""
    room = _FITTING - len(before)
    return before + (name if len(name) <= room else f"…{name[-room + 1 :].lstrip('.')}")


def _bar(node: Node, x: int) -> list[Share]:
    """Return the parts of the bar: each state that occurs is at least 3 pixels wide."""
    whole, total = WIDTH - 24, len(node.steps)
    shares, at = [], x + 12
    widths = {state: max(3, whole * number // total) for state, number in node.counts.items()}
    widest = max(widths, key=lambda state: widths[state])
    widths[widest] += whole - sum(widths.values())
    for state, width in widths.items():
        shares.append(Share(at, max(0, width), state))
        at += width
    return shares


def _curve(of: Box, to: Box) -> str:
    x1, y1 = of.x + WIDTH, of.y + of.height // 2
    x2, y2 = to.x - 2, to.y + to.height // 2
    bend = max(ACROSS // 2, (x2 - x1) // 2)
    return f"M{x1} {y1} C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"
