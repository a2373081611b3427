"""Metrics: the figures of the queue as families of samples, and the text that Prometheus reads of them.

`docs/metrics.md` has all metrics. Each process reads the same, those of the whole queue.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from threading import Lock
from typing import Literal, NamedTuple

from djjp.engine.sums import FIRST_BUCKET, LAST_BUCKET
from djjp.monitoring.consumers import Life
from djjp.monitoring.incidents import KINDS
from djjp.monitoring.overview import OutboxInfo, Overview, QueueInfo, overview
from djjp.monitoring.totals import Figures, Histogram, ever

#: The media types of the text format of Prometheus, and of OpenMetrics.
TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
#: The number of pairs of queue and name, and of queues, that have series of their own; the others are added up.
MOST_SERIES = 1_000
#: The queue and the name of the series of all others.
OTHERS = "(others)"

_COUNTED = ("succeeded", "failed", "cancelled")
_BOUNDS = [*(repr(2.0**each) for each in range(FIRST_BUCKET, LAST_BUCKET)), "+Inf"]

_Pair = tuple[str, str]


class Sample(NamedTuple):
    """One figure of a family, whose name it has, followed by a suffix."""

    suffix: str
    labels: Mapping[str, str]
    value: float


class Family(NamedTuple):
    """A metric with its samples.

    Attributes:
        name: the name of a counter is without `_total`, the suffix of its samples.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: list[Sample]


class Facts(NamedTuple):
    """The facts that metrics are made from.

    Attributes:
        ever: what has ended, by queue and name.
        queues: the queues as they are now; None to leave their metrics out.
        now: the whole queue as it is now; None likewise.
    """

    ever: Sequence[Figures]
    queues: Sequence[QueueInfo] | None
    now: Overview | None


#: Facts of a queue without anything: their metrics have names, and no figures of queues and jobs.
NO_FACTS = Facts([], [], Overview([], [], [], [], []))


def facts() -> Facts:
    """Read the facts.

    Raises:
        QueueUnavailable: the queue's database does not answer.
    """
    ended, now = ever(), overview()
    return Facts(ended, now.queues, now)


def up(value: int) -> Family:
    """Return the metric that is 0 if the queue's database does not answer."""
    text = "1 if the queue's database answers this scrape, otherwise 0."
    return _gauge("djjp_up", text, [({}, value)])


class Series:
    """The series that have names of queues and jobs as labels, of which there is a bounded number.

    A pair that has series of its own keeps them, so that no counter falls. Of many the busiest get them.

    Args:
        most: the number of pairs of queue and name, and of queues, that have series of their own.
    """

    def __init__(self, most: int = MOST_SERIES) -> None:
        self._most = most
        self._pairs: set[_Pair] = set()
        self._queues: set[str] = set()
        self._lock = Lock()

    def families(self, facts: Facts) -> Iterator[Family]:
        """Return the metrics of these facts."""
        with self._lock:
            totals = self._totals(facts.ever)
            queues = None if facts.queues is None else self._by_queue(facts.queues, facts.ever)
        yield up(1)
        yield from _of_ends(totals)
        if queues is not None:
            yield from _of_queues(queues)
        if facts.now is not None:
            yield from _of_all(facts.now)

    def _totals(self, found: Iterable[Figures]) -> dict[_Pair, list[Figures]]:
        """Return the figures by the labels of their series."""
        figures = sorted(found, key=lambda each: (-each.ended, each.queue, each.name))
        by_labels: dict[_Pair, list[Figures]] = defaultdict(list)
        for each in figures:
            pair = each.queue, each.name
            if len(self._pairs) < self._most:
                self._pairs.add(pair)
            by_labels[pair if pair in self._pairs else (OTHERS, OTHERS)].append(each)
        return by_labels

    def _by_queue(
        self, queues: Iterable[QueueInfo], ever: Iterable[Figures]
    ) -> list[tuple[str, list[QueueInfo]]]:
        """Return the queues by the label of their series: those with live jobs, and those with ends."""
        live = {each.name: each for each in queues}
        names = [*live, *(each.queue for each in ever)]
        by_label: dict[str, list[QueueInfo]] = {}
        for name in dict.fromkeys(names):
            if len(self._queues) < self._most:
                self._queues.add(name)
            label = name if name in self._queues else OTHERS
            by_label.setdefault(label, []).extend([live[name]] if name in live else [])
        return sorted(by_label.items())


def _gauge(name: str, text: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> Family:
    return Family(
        name, "gauge", text, [Sample("", labels, float(value)) for labels, value in samples]
    )


def _labels(pair: _Pair) -> dict[str, str]:
    queue, name = pair
    return {"queue": queue, "name": name}


def _of_ends(totals: Mapping[_Pair, list[Figures]]) -> Iterator[Family]:
    finished = [
        Sample(
            "_total",
            {**_labels(pair), "state": state},
            float(sum(getattr(each, state) for each in figures)),
        )
        for pair, figures in totals.items()
        for state in _COUNTED
    ]
    text = "Jobs that have ended, by their state."
    yield Family("djjp_jobs_finished", "counter", text, finished)
    for kind, text in _COUNTERS.items():
        counted = [
            Sample("_total", _labels(pair), float(sum(getattr(each, kind) for each in figures)))
            for pair, figures in totals.items()
        ]
        yield Family(f"djjp_{kind}", "counter", text, counted)
    for name, text, of in _HISTOGRAMS:
        samples = [
            sample
            for pair, figures in totals.items()
            for sample in _buckets(_labels(pair), [of(each) for each in figures])
        ]
        yield Family(name, "histogram", text, samples)


_COUNTERS = {
    "retried": "Attempts that failed or asked for it, and were followed by another one.",
    "rescued": "Attempts that ended with the death of their consumer, and were followed by another one.",
    "late": "Outcomes that were refused, because the job had been rescued, released or deleted.",
}
_HISTOGRAMS: list[tuple[str, str, Callable[[Figures], Histogram]]] = [
    ("djjp_job_run_seconds", "Running times of attempts.", lambda each: each.runs),
    (
        "djjp_job_wait_seconds",
        "Waiting times of jobs before their first start, from when they were due.",
        lambda each: each.waits,
    ),
]


def _buckets(labels: Mapping[str, str], histograms: list[Histogram]) -> list[Sample]:
    """Return the cumulative counts by upper bound, the number and the sum."""
    counts = [
        sum(each.buckets.get(bucket, 0) for each in histograms)
        for bucket in range(FIRST_BUCKET, LAST_BUCKET + 1)
    ]
    cumulative = [float(each) for each in accumulate(counts)]
    found = [
        Sample("_bucket", {**labels, "le": bound}, count)
        for bound, count in zip(_BOUNDS, cumulative, strict=True)
    ]
    found.append(Sample("_count", labels, cumulative[-1]))
    found.append(Sample("_sum", labels, float(sum(each.seconds for each in histograms))))
    return found


def _of_queues(queues: list[tuple[str, list[QueueInfo]]]) -> Iterator[Family]:
    for name, text, of in _OF_QUEUE:
        yield _gauge(name, text, [({"queue": label}, of(infos)) for label, infos in queues])


def _count(state: str) -> Callable[[list[QueueInfo]], float]:
    return lambda infos: sum(each.counts[state] for each in infos)


_OF_QUEUE: list[tuple[str, str, Callable[[list[QueueInfo]], float]]] = [
    ("djjp_ready", "Jobs that wait for a consumer.", _count("ready")),
    ("djjp_scheduled", "Jobs whose time has not come.", _count("scheduled")),
    ("djjp_blocked", "Jobs that wait for others of their pipeline, or for a limit.", _count("blocked")),
    ("djjp_running", "Jobs that consumers hold: running, or claimed ahead.", _count("running")),
    (
        "djjp_oldest_wait_seconds",
        "Seconds for which the job that was due first has waited; 0 without a ready job.",
        lambda infos: max((each.oldest_wait or 0.0 for each in infos), default=0.0),
    ),
    (
        "djjp_queue_paused",
        "1 for a queue that is paused, otherwise 0.",
        lambda infos: sum(each.is_paused for each in infos),
    ),
    (
        "djjp_queue_consumers",
        "Consumers that claim jobs of the queue.",
        lambda infos: max((len(each.served_by) for each in infos), default=0),
    ),
]  # fmt: skip


def _of_all(now: Overview) -> Iterator[Family]:
    """Return the metrics of the whole queue, and of no named queue or job."""
    lives = [
        ({"life": str(life)}, sum(each.life is life for each in now.consumers)) for life in Life
    ]
    yield _gauge("djjp_consumers", "Registered consumers, by their signs of life.", lives)
    alive = [each for each in now.consumers if each.life is Life.ALIVE]
    slots, busy = sum(each.limit for each in alive), sum(each.busy for each in alive)
    yield _gauge("djjp_slots", "Slots of the consumers that are alive.", [({}, slots)])
    text = "Slots of the consumers that are alive in which a job runs."
    yield _gauge("djjp_slots_busy", text, [({}, busy)])
    yield from _of_outboxes(now.outboxes)
    open_kinds = [each.kind for each in now.incidents]
    kinds = [({"kind": kind}, open_kinds.count(kind)) for kind in KINDS]
    yield _gauge("djjp_incidents", "Open incidents, by kind.", kinds)
    text = "Schedules that are due and were not fired."
    yield _gauge("djjp_schedules_overdue", text, [({}, len(now.overdue))])


def _of_outboxes(outboxes: Iterable[OutboxInfo]) -> Iterator[Family]:
    found = [({"alias": each.alias}, each) for each in outboxes]
    answering = [(labels, each) for labels, each in found if each.waiting is not None]
    yield _gauge(
        "djjp_outbox_up",
        "1 if the database of the outbox answers, otherwise 0.",
        [(labels, each.waiting is not None) for labels, each in found],
    )
    yield _gauge(
        "djjp_outbox_waiting",
        "Calls in an outbox that wait for their relay.",
        [(labels, each.waiting or 0) for labels, each in answering],
    )
    yield _gauge(
        "djjp_outbox_oldest_wait_seconds",
        "Seconds for which the first call in an outbox has waited; 0 without one.",
        [(labels, each.oldest_wait or 0.0) for labels, each in answering],
    )


# The text formats


def exposition(families: Iterable[Family], media_type: str = TEXT) -> str:
    """Return metrics in the text format of Prometheus, or in that of OpenMetrics.

    Args:
        media_type: `TEXT` or `OPEN_METRICS`.
    """
    is_open = media_type == OPEN_METRICS
    lines = []
    for each in families:
        name = f"{each.name}_total" if each.kind == "counter" and not is_open else each.name
        lines.append(f"# HELP {name} {each.help}")
        lines.append(f"# TYPE {name} {each.kind}")
        lines += [f"{each.name}{of.suffix}{_braces(of.labels)} {of.value!r}" for of in each.samples]
    return "\n".join([*lines, *(["# EOF"] if is_open else []), ""])


def _braces(labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
