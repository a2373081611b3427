"""Known words: the queues, names and exceptions that the queue has had, for a filter that no job matches."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable
from functools import partial

from djjp import engine
from djjp.engine import Engine
from djjp.jobs import registry
from djjp.jsontext import texts
from djjp.models import Consumer, Span, Total
from djjp.monitoring.filters import Filter, closest
from djjp.monitoring.jobs import find
from djjp.monitoring.queues import known_queues

# The names of totals that are compared at most.
_MOST = 5_000


def nothing_matches(wanted: Filter) -> str:
    """Return that no job matches a filter, and the words in it that are unknown, with the closest known ones.

    A word is unknown if no process, no job and no total of ended jobs has it. If a search cannot read all jobs in
    its time, this is not certain, and the word is left out.
    """
    texts = [f"no job matches {wanted}" if wanted else "there are no jobs"]
    for key, kind, words in _KINDS:
        word = wanted.texts().get(key)
        if word is None or (key == "name" and {"*", "?"} & {*word}):
            continue
        known = engine.run(partial(_sorted, words))
        if word in known or not _has_no_job(key, word):
            continue
        nearest = closest(word, known)
        ending = "" if nearest is None else f", the closest is {nearest!r}"
        texts.append(f"no {kind} {reprlib.repr(word)} is known{ending}")
    return "; ".join(texts)


def known_words(key: str, *, most: int = 200) -> list[str]:
    """Return the queues, names or exceptions that are known, in order, for the field of a filter that offers them.

    Args:
        key: the key of the filter: "queue", "name" or "exception".
        most: the number of words to return at most.
    """
    if key == "queue":
        return sorted(known_queues(most))[:most]
    words = next(words for each, _, words in _KINDS if each == key)
    return engine.run(partial(_sorted, words))[:most]


def _sorted(words: Callable[[Engine], Iterable[str]], engine: Engine) -> list[str]:
    return sorted({*words(engine)})


def _has_no_job(key: str, word: str) -> bool:
    page = find(Filter.of({key: word}), limit=1)
    return not page.jobs and page.looked_back_to is None


def _names(engine: Engine) -> Iterable[str]:
    yield from registry.names()
    for (text,) in Consumer.objects.using(engine.db.alias).values_list("names"):
        yield from texts(text) or []
    totals = Total.objects.using(engine.db.alias).filter(span=Span.EVER)
    yield from totals.values_list("name", flat=True).order_by()[:_MOST]


def _queues(engine: Engine) -> Iterable[str]:
    return known_queues()


def _exceptions(engine: Engine) -> Iterable[str]:
    for name in engine.search.sources.known_classes():
        yield from (name, name.rpartition(".")[2])


_KINDS: list[tuple[str, str, Callable[[Engine], Iterable[str]]]] = [
    ("queue", "queue", _queues),
    ("name", "job named", _names),
    ("exception", "exception", _exceptions),
]
