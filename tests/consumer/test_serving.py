"""The queues from which a consumer claims its next jobs: order, shares, patterns, exclusions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from djjp.consumer.serving import QueueSelector, Rank, parse


class Queues:
    """Ready jobs by queue, as a claim takes them: by priority, then first in, first out."""

    def __init__(self, **jobs: Sequence[int]) -> None:
        self.left = {
            queue: [(-priority, index, queue) for index, priority in enumerate(priorities)]
            for queue, priorities in jobs.items()
        }
        self.claims = 0

    def ready(self) -> list[str]:
        return sorted(queue for queue, jobs in self.left.items() if jobs)

    def claim(self, queues: Sequence[str] | None, limit: int) -> list[str]:
        self.claims += 1
        served = self.left if queues is None else queues
        first = sorted(job for queue in served for job in self.left.get(queue, []))[:limit]
        for job in first:
            self.left[job[2]].remove(job)
        return [queue for _, _, queue in first]

    def turn(self, serving: QueueSelector, room: int) -> list[str]:
        served = serving.select(self.ready() if serving.needs_ready_names else [])
        return serving.take(room, served, self.claim)

    def taken(self, serving: QueueSelector, room: int, turns: int) -> list[str]:
        return [queue for _ in range(turns) for queue in self.turn(serving, room)]


def serving(*names: str, excluded: Sequence[str] = ()) -> QueueSelector:
    return QueueSelector(parse(names) if names else None, excluded)


# Options


def test_names_become_ranks_in_their_order() -> None:
    assert parse(["mail", "report.*"]) == [Rank("mail"), Rank("report.*")]
    assert parse(["mail:3", "a:b:1"]) == [Rank("mail", 3), Rank("a:b", 1)]
    assert parse(["a", "b", "a"]) == [Rank("a"), Rank("b")]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "name at least one queue"),
        (["mail", "default:1"], "either all queues have a weight"),
        (["mail:0"], "'mail:0': a weight is a whole number from 1 to 1000, as in mail:3"),
        (["mail:-1"], "'mail:-1': a weight"),
        (["mail:1.5"], "'mail:1.5': a weight"),
        (["mail:"], "'mail:': a weight"),
        (["mail:²"], "a weight"),
        (["mail:1001"], "a weight"),
        ([f"mail:{'9' * 5000}"], "a weight"),
        ([":3"], "':3': the name of the queue is missing"),
        ([""], "the name of the queue is missing"),
        (["mail:3", "mail:1"], "'mail' is there with two weights"),
    ],
)
def test_a_wrong_value_is_refused_with_a_right_one(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=r"^.+$") as caught:
        parse(names)
    assert message in str(caught.value)


def test_the_status_names_the_queues_served_and_excluded() -> None:
    assert serving().names() is None
    assert serving("*").names() is None
    assert serving("mail", "report.*").names() == ["mail", "report.*"]
    assert serving("mail:3", "default:1").names() == ["mail:3", "default:1"]
    assert serving(excluded=["bulk", "old.*"]).names() == ["*", "not bulk", "not old.*"]


# An order


@pytest.mark.parametrize("room", [1, 3, 50])
def test_all_of_the_first_queue_comes_before_the_second_whatever_the_priorities(room: int) -> None:
    queues = Queues(mail=[-5] * 7, default=[9] * 7, bulk=[5] * 7)
    taken = queues.taken(serving("mail", "default", "bulk"), room, 21)
    assert taken == ["mail"] * 7 + ["default"] * 7 + ["bulk"] * 7


def test_a_pattern_merges_its_queues_by_priority() -> None:
    queues = Queues(default=[9], **{"report.a": [1, 5, 3], "report.b": [4, 2]})
    taken = queues.taken(serving("report.*", "default"), 2, 3)
    assert taken == ["report.a", "report.b", "report.a", "report.b", "report.a", "default"]


def test_a_queue_that_is_named_belongs_to_the_rank_of_its_name() -> None:
    """So that `*` can mean all others, before some as well as behind them."""
    queues = Queues(a=[0], bulk=[9], mail=[0], z=[5])
    assert queues.taken(serving("mail", "*", "bulk"), 1, 9) == ["mail", "z", "a", "bulk"]


def test_a_star_alone_serves_every_queue_by_one_claim() -> None:
    assert not serving("*").needs_ready_names
    assert serving("*").select([])[0][1] is None


# Shares


@pytest.mark.parametrize("room", [1, 2, 3, 7, 50, 400])
def test_shares_follow_the_weights(room: int) -> None:
    queues = Queues(mail=[0] * 400, default=[9] * 400)
    taken = queues.taken(serving("mail:3", "default:1"), room, 400 // room)
    counts = Counter(taken)
    assert abs(counts["mail"] - 3 * counts["default"]) <= 4
    # And not in lumps: a slot that takes them one after the other sees the shares soon.
    for start in range(0, len(taken) - 40, 40):
        assert 26 <= taken[start : start + 40].count("mail") <= 34


@pytest.mark.parametrize("room", [1, 10, 100])
def test_a_queue_alone_gets_everything(room: int) -> None:
    queues = Queues(default=[0] * 100)
    assert queues.taken(serving("mail:99", "default:1"), room, 100 // room) == ["default"] * 100


@pytest.mark.parametrize("room", [1, 7, 100])
def test_the_share_of_an_empty_queue_goes_to_the_others_by_their_weights(room: int) -> None:
    queues = Queues(a=[], b=[0] * 300, c=[0] * 300)
    weighted = serving("a:6", "b:2", "c:1")
    taken: list[str] = []
    for _ in range(300 // room):
        queues.left["a"].append((0, 0, "a"))  # never quite empty, so that it is always claimed from
        taken += queues.turn(weighted, room)
    counts = Counter(taken)
    assert abs(counts["b"] - 2 * counts["c"]) <= 8


@pytest.mark.parametrize("room", [1, 8])
def test_an_empty_queue_accumulates_no_credit(room: int) -> None:
    queues = Queues(mail=[], default=[0] * 1000)
    weighted = serving("mail:1", "default:1")
    queues.taken(weighted, room, 400 // room)
    queues.left["mail"] = [(0, index, "mail") for index in range(100)]
    counts = Counter(queues.taken(weighted, room, 80 // room))
    assert abs(counts["mail"] - counts["default"]) <= 2


def test_within_a_share_priority_goes_first() -> None:
    queues = Queues(x=[0], **{"m.a": [1, 5], "m.b": [3]})
    weighted = serving("m.*:1", "x:1")
    assert [q for q in queues.taken(weighted, 1, 4) if q != "x"] == ["m.a", "m.b", "m.a"]


# Exclusions


def test_an_excluded_queue_is_not_served_even_if_it_is_named() -> None:
    left_out = ["bulk", "old.*"]
    ready = ["bulk", "default", "mail", "old.a", "older"]
    assert serving(excluded=left_out).select(ready) == [(Rank("*"), ["default", "mail", "older"])]
    assert serving("bulk", "mail", excluded=left_out).select([]) == [(Rank("mail"), ["mail"])]
    assert serving("o*", "*", excluded=left_out).select(ready) == [
        (Rank("o*"), ["older"]),
        (Rank("*"), ["default", "mail"]),
    ]


def test_only_a_star_matches_other_text() -> None:
    odd = ["a?", "ab", "[x]", "x", "a.b", "a-b", "q\n1"]
    assert serving("a?", "[x]", "a.*", "q*").select(odd) == [
        (Rank("a?"), ["a?"]),
        (Rank("[x]"), ["[x]"]),
        (Rank("a.*"), ["a.b"]),
        (Rank("q*"), ["q\n1"]),
    ]
    assert serving(excluded=["[x]"]).select(["[x]", "x"]) == [(Rank("*"), ["x"])]


def test_a_pause_applies_to_names_patterns_and_all_queues_and_can_end() -> None:
    ready = ["bulk", "mail"]
    for served, whole in [
        (serving(), [(Rank("*"), None)]),
        (serving("mail", "bulk"), [(Rank("mail"), ["mail"]), (Rank("bulk"), ["bulk"])]),
        (serving("*", excluded=["x"]), [(Rank("*"), ["bulk", "mail"])]),
    ]:
        served.paused = frozenset(["bulk"])
        assert [names for _, names in served.select(ready)] == [["mail"]]
        served.paused = frozenset()
        assert served.select(ready) == whole


def test_a_thousand_queues_are_sorted_into_ranks_in_linear_time() -> None:
    """A name is matched once, and then remembered."""
    names = [f"tenant-{number}" for number in range(1000)]
    served = serving("tenant-7", "tenant-*", "*")
    assert served.select(names) == served.select(names)
    assert served._rank_of.cache_info().misses == 1000
