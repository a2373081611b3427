"""Folding: a pipeline of any size and shape is drawn with few nodes, and no job is left out."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from djjp import chain, expand, group
from djjp.engine import Engine, Graph, Step
from djjp.engine.graphs import Edge
from djjp.models import Flag
from djjp.monitoring.folding import MOST_NODES, Fold, Folded, fold
from djjp.monitoring.pipelines import pipeline
from djjp.pipelines import Pipeline
from djjp.testing import drain
from tests.project.shop.jobs import add, echo, fail, items, mail, repeat, require


def drawn(folded: Folded) -> list[str]:
    """Return the nodes as texts: the last part of the name, and the number of jobs."""
    return [
        f"{node.names[0].rpartition('.')[2]}{f' x{len(node.steps)}' if len(node.steps) > 1 else ''}"
        for node in folded.nodes
    ]


def arrows(folded: Folded) -> set[str]:
    texts = drawn(folded)
    return {f"{texts[a]} {'!' if kind else ''}> {texts[b]}" for a, b, kind in folded.edges}


def folded(shape: Pipeline) -> Folded:
    return fold(pipeline(shape.run_later().id).graph)


def test_up_to_12_members_are_drawn_each_and_more_are_one_node(engine: Engine) -> None:
    few = folded(chain(group(*[add.bind(n) for n in range(12)]), echo.bind()))
    assert drawn(few) == ["add"] * 12 + ["echo"]
    assert len(few.edges) == 12
    many = folded(
        chain(mail.bind("x"), group(*[add.bind_alone(n) for n in range(13)]), echo.bind())
    )
    assert drawn(many) == ["mail", "add x13", "echo"]
    assert arrows(many) == {"mail > add x13", "add x13 > echo"}
    assert [node.depth for node in many.nodes] == [0, 1, 2]


def test_chains_in_a_group_are_folded_step_by_step(engine: Engine) -> None:
    found = folded(chain(group(*[chain(add.bind(n), fail.bind()) for n in range(20)]), echo.bind()))
    assert arrows(found) == {"add x20 > fail x20", "fail x20 > echo"}


def test_an_expansion_is_one_step_before_and_its_members_after(engine: Engine) -> None:
    shape = chain(items.bind(30), expand(require.bind(5)), echo.bind(), on_failure=mail.bind())
    handle = shape.run_later()
    before = fold(pipeline(handle.id).graph)
    assert arrows(before) == {"items > require", "require > echo", "echo !> mail"}
    drain()
    after = fold(pipeline(handle.id).graph)
    assert arrows(after) == {"items > require x30", "require x30 > echo", "echo !> mail"}
    [members] = [node for node in after.nodes if node.fold is Fold.ALIKE]
    assert list(members.counts.items()) == [("failed", 5), ("succeeded", 25)]
    assert [node.is_on_failure for node in after.nodes] == [False, False, False, True]


def test_expansions_beside_one_another_keep_their_own_members(engine: Engine) -> None:
    two = [chain(items.bind(2), expand(repeat)) for _ in range(2)]
    handle = chain(group(*two), echo.bind()).run_later()
    drain()
    found = fold(pipeline(handle.id).graph)
    assert drawn(found).count("repeat") == 4
    parents = [a for a, b, _ in found.edges if found.nodes[b].names == [repeat.name]]
    assert len(parents) == 4, "no member has the items of the other one"


def test_an_expansion_of_nothing_is_still_a_step(engine: Engine) -> None:
    handle = chain(items.bind(0), expand(repeat), echo.bind()).run_later()
    drain()
    assert arrows(fold(pipeline(handle.id).graph)) == {"items > repeat", "repeat > echo"}


def test_an_on_failure_job_that_was_not_needed_is_counted_as_that(engine: Engine) -> None:
    handle = chain(add.bind(1), on_failure=mail.bind()).run_later()
    drain()
    assert fold(pipeline(handle.id).graph).nodes[1].counts == {"not needed": 1}


# Graphs of any shape


def graph(names: list[str], edges: set[tuple[int, int]], **states: str) -> Graph:
    steps = [
        Step(UUID(int=n), name, "default", states.get(f"s{n}", "succeeded"), 0, 1, False)
        for n, name in enumerate(names)
    ]
    return Graph(steps, [Edge(a, b, "") for a, b in sorted(edges)], has_more=False)


def test_a_long_chain_is_folded_except_its_ends_and_the_steps_that_failed() -> None:
    edges = {(n, n + 1) for n in range(9_999)}
    found = fold(graph(["a"] * 10_000, edges, s5000="failed"))
    assert [len(node.steps) for node in found.nodes] == [1, 1, 4998, 1, 4997, 1, 1]
    assert found.nodes[3].counts == {"failed": 1}
    assert [(a, b) for a, b, _ in found.edges] == [(n, n + 1) for n in range(6)]
    short = fold(graph(["a"] * 13, {(n, n + 1) for n in range(12)}))
    assert len(short.nodes) == 13


def _groups_of_two(pick: random.Random) -> set[tuple[int, int]]:
    """Return 1,500 groups of two, one after the other."""
    return {(2 * n + a, 2 * n + 2 + b) for n in range(1_499) for a in range(2) for b in range(2)}


def _any(pick: random.Random) -> set[tuple[int, int]]:
    return {tuple(sorted(pick.sample(range(3_000), 2))) for _ in range(6_000)}  # type: ignore[misc]  # two


def _chains_of_all_lengths(pick: random.Random) -> set[tuple[int, int]]:
    edges, at = set(), 0
    for length in range(1, 76):
        edges |= {(n, n + 1) for n in range(at, at + length)}
        at += length + 1
    return edges


def _separate(pick: random.Random) -> set[tuple[int, int]]:
    return set()


@pytest.mark.parametrize("edges", [_groups_of_two, _any, _chains_of_all_lengths, _separate])
@pytest.mark.parametrize("names", [1, 7, 3_000])
def test_steps_of_any_shape_are_drawn_with_few_nodes(
    edges: Callable[[random.Random], set[tuple[int, int]]], names: int
) -> None:
    found = fold(graph([f"n{n % names}" for n in range(3_000)], edges(random.Random(5))))
    assert len(found.nodes) <= MOST_NODES
    assert sum(len(node.steps) for node in found.nodes) == 3_000
    assert sum(sum(node.counts.values()) for node in found.nodes) == 3_000
    assert all(found.nodes[a].depth < found.nodes[b].depth for a, b, _ in found.edges)


def test_random_graphs_lose_neither_jobs_nor_ways() -> None:
    pick = random.Random(17)
    for _ in range(60):
        count = pick.randrange(1, 60)
        edges: set[Any] = set()
        for _ in range(pick.randrange(count * 2)):
            a, b = sorted((pick.randrange(count), pick.randrange(count)))
            edges |= {(a, b)} if a < b else set()
        made = graph([pick.choice("ab") for _ in range(count)], edges)
        found = fold(made)
        node_of = {step.id.int: n for n, node in enumerate(found.nodes) for step in node.steps}
        assert sorted(node_of) == list(range(count))
        kept = {(a, b) for a, b, _ in found.edges}
        for a, b in edges:
            assert node_of[a] == node_of[b] or (node_of[a], node_of[b]) in kept


def test_hidden_rows_lead_to_no_node() -> None:
    names = ["a", "b", "c"]
    made = graph(names, {(0, 1), (1, 2)})
    made.steps[1] = made.steps[1]._replace(flags=Flag.COLLECTS | Flag.UNLISTED)
    assert arrows(fold(made)) == {"a > c"}
