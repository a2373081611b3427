"""A token without `--arguments` gets no argument, no result and no text of an error, whatever it asks for."""

from __future__ import annotations

from typing import Any

import pytest

from djjp import Discard, job, pipelines
from djjp.api import urls  # noqa: F401  (it defines the endpoints)
from djjp.api.frame import ENDPOINTS, Endpoint
from djjp.engine import Engine
from djjp.models import Job
from djjp.monitoring.detection import look
from tests.api.conftest import API
from tests.api.test_wrong import BODIES, address
from tests.support.consumers import drain

CANARY = "c4n4ry"
#: Texts that are cut, escaped or shortened in different ways.
TEXTS = [CANARY, f"{CANARY}: no", f"no\n{CANARY}\n", f"{CANARY} " * 100, f'"{CANARY}"']


@job(name="hidden.returns", api=True)
def returns(text: str) -> str:
    return text


@job(name="hidden.fails", api=True)
def fails(text: str) -> None:
    raise ValueError(text)


@job(name="hidden.discards", api=True)
def discards(text: str) -> None:
    raise Discard(text)


@job(name="hidden.retries", api=True, max_attempts=3, backoff=3600)
def retries(text: str) -> None:
    raise ValueError(text)


@job(name="hidden.once", api=True, unique_key="one")
def once(text: str) -> None:
    raise ValueError(text)


def fill() -> dict[str, list[str]]:
    """Enqueue jobs of which each argument is a canary, and run them; return ids by resource."""
    kinds = (returns, fails, discards, retries)
    ids = [str(each.run_later(text).id) for each in kinds for text in TEXTS]
    chains = [
        pipelines.chain(first.bind(CANARY), returns.bind()).run_later()
        for first in (returns, fails, discards)
    ]
    for _ in range(10):
        fails.run_later(CANARY)
    drain()
    ids += [str(pk) for pk in Job.objects.values_list("pk", flat=True) if str(pk) not in ids][:12]
    ids.append(str(returns.using(run_after=3600).run_later(CANARY).id))
    ids.append(str(returns.run_later(CANARY).id))
    look()
    return {"jobs": ids, "pipelines": [str(each.id) for each in chains]}


def bodies(each: Endpoint) -> list[Any]:
    """Return bodies of an endpoint: right ones, and wrong ones that carry the canary."""
    name = each.handler.__name__
    if name not in ("enqueue", "enqueue_batch"):
        return [BODIES.get(name)]
    calls: list[dict[str, Any]] = [
        {"name": "hidden.returns", "args": [CANARY]},
        {"name": "hidden.once", "args": [CANARY]},
        {"name": "hidden.once", "args": [CANARY]},
        {"name": "hidden.returns", "args": [[CANARY]]},
        {"name": "hidden.returns", "args": [1, CANARY]},
        {"name": "hidden.returns", "kwargs": {"text": {"x": CANARY}}},
        {"name": "hidden.returns", "args": [{"$djjp": "decimal", "value": CANARY}]},
        {"name": "hidden.returns", "args": [{"$djjp": CANARY, "value": 1}]},
        {"name": "hidden.returns", "args": CANARY},
        {"name": "hidden.returns", "args": [CANARY * 200_000]},
        {"name": "hidden.unknown", "args": [CANARY]},
    ]
    found: list[Any] = calls if name == "enqueue" else [{"jobs": [call]} for call in calls]
    return [*found, f'{{"args": [{CANARY}]}}'.encode()]


def paths(each: Endpoint, ids: dict[str, list[str]]) -> list[str]:
    if "{" not in each.path:
        queries = ["", "?by=name", "?state=failed", "?exception=ValueError", "?limit=200"]
        return [
            each.path + query
            for query in queries
            if not query or query[1:].partition("=")[0] in each.query
        ]
    kind = each.path.split("/")[2]
    return [address(each, id) for id in ids.get(kind, ["default"])]


def answers(client: API, ids: dict[str, list[str]]) -> list[tuple[str, bytes]]:
    """Return the answers of all operations, those that change something last."""
    found = []
    for each in sorted(ENDPOINTS, key=lambda each: (each.method != "GET", each.path)):
        for path in paths(each, ids):
            for number, body in enumerate(bodies(each)):
                headers = {"Idempotency-Key": f"k{number}"} if each.headers and body else {}
                for _ in range(2 if headers else 1):  # also a repeat
                    _, _, response = client(each.method, path, body, **headers)
                    head = str(sorted(response.headers.items())).encode()
                    found.append(
                        (f"{each.method} {path} {str(body)[:60]}", head + response.content)
                    )
    return found


def test_no_answer_has_an_argument_without_the_right(api: API, engine: Engine) -> None:
    ids = fill()
    found = answers(API("operate"), ids)
    assert len(found) > 150
    assert [name for name, content in found if CANARY.encode() in content] == []


@pytest.mark.one_database
def test_the_sweep_finds_arguments_that_are_shown(api: API) -> None:
    found = answers(api, fill())
    shown = {name.split("?")[0] for name, content in found if CANARY.encode() in content}
    for part in ("GET /v1/jobs/", "/explain", "GET /v1/failures", "POST /v1/jobs ", "/retry"):
        assert any(part in name for name in shown), part
