"""Limits, rates, unique keys and expiry as they are declared, and the keys of calls."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from math import inf, nan
from typing import Any

import pytest

from djjp import Limit, Rate, chain, group
from djjp.engine import Engine
from djjp.jobs import JobOptions, RegisteredJob
from djjp.models import Flag, Job, State
from djjp.outbox.models import OutboxJob


def sync(tenant_id: int, name: str = "all", *rest: str, **more: object) -> None: ...


def declared(function: Callable[..., Any] = sync, **options: Any) -> RegisteredJob[..., Any]:
    """Create a job that is not registered."""
    return RegisteredJob(function, JobOptions("test.sync", **options))


#: The options that have a key.
KEYED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "limit": lambda key: {"limit": Limit(key)},
    "rate": lambda key: {"limit": Rate(key, 1)},
    "unique key": lambda key: {"unique_key": key},
}


# Refused declarations


@pytest.mark.parametrize("kind", [Limit, Rate])
@pytest.mark.parametrize(
    ("most", "says"),
    [
        (0, "is 0; it must be a whole number, 1 or more"),
        (-1, "is -1;"),
        (1.0, "is 1.0;"),
        (True, "is True;"),
        ("2", "is '2';"),
        (None, "is None;"),
        (2**31, "is 2147483648;"),
    ],
)
def test_an_invalid_number_is_refused(kind: Any, most: Any, says: str) -> None:
    with pytest.raises(ValueError) as caught:
        kind("api", most)
    assert f"the number of a {kind.__name__} {says}" in str(caught.value)


@pytest.mark.parametrize("option", KEYED)
@pytest.mark.parametrize(
    ("key", "error", "says"),
    [
        (7, TypeError, "is 7; it must be a text of 1 to 200 characters"),
        (b"api", TypeError, "is b'api';"),
        ("", ValueError, "is '', of 0 characters; it must have 1 to 200"),
        ("x" * 201, ValueError, "of 201 characters"),
        ("a\0b", ValueError, "NUL"),
        ("a\ud800b", ValueError, "lone surrogates"),
    ],
)
def test_an_invalid_key_is_refused(option: str, key: Any, error: Any, says: str) -> None:
    with pytest.raises(error) as caught:
        declared(**KEYED[option](key))
    assert says in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_limit_has_a_key() -> None:
    with pytest.raises(TypeError, match="the key of a Limit is None"):
        Limit(None)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("per", [0, -1, timedelta(0), inf, nan, "1", None, True, 1e12])
def test_an_invalid_span_of_a_rate_is_refused(per: Any) -> None:
    with pytest.raises(ValueError, match=r"^per is "):
        Rate("api", 10, per=per)


@pytest.mark.parametrize("after", [0, -1, timedelta(0), inf, nan, "1", True, timedelta.max])
def test_an_invalid_expiry_is_refused(after: Any) -> None:
    with pytest.raises(ValueError, match=r"^expires_after is "):
        declared(expires_after=after)
    with pytest.raises(ValueError, match=r"^expires_after is "):
        declared().using(expires_after=after)


@pytest.mark.parametrize("limit", ["api", 2, ("api", 2), Limit])
def test_a_limit_is_a_limit_or_a_rate(limit: Any) -> None:
    with pytest.raises(TypeError, match=r"it must be a Limit or a Rate, as in Limit\("):
        declared(limit=limit)


@pytest.mark.parametrize("until", ["end", "", None, True])
def test_a_unique_key_lasts_until_the_start_or_the_finish(until: Any) -> None:
    with pytest.raises(ValueError, match="it must be 'finish' or 'start'"):
        declared(unique_key="a", unique_until=until)


@pytest.mark.parametrize("option", KEYED)
@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("t-{tenant}", "names 'tenant', which is no parameter of the job; it has tenant_id, name"),
        ("t-{}", "braces are for parameters alone"),
        ("t-{tenant_id.pk}", "braces are for parameters alone"),
        ("t-{tenant_id!r}", "braces are for parameters alone"),
        ("t-{{tenant_id}}", "braces are for parameters alone"),
        ("t-{tenant_id", "braces are for parameters alone"),
    ],
)
def test_a_placeholder_that_is_no_parameter_is_refused(option: str, key: str, says: str) -> None:
    def plain(tenant_id: int, name: str) -> None: ...

    with pytest.raises(ValueError) as caught:
        declared(plain, **KEYED[option](key))
    assert says in str(caught.value)


def test_changes_by_using_are_validated_too() -> None:
    with pytest.raises(ValueError, match="is '', of 0 characters"):
        declared().using(unique_key="")
    with pytest.raises(ValueError, match="braces"):
        declared().using(unique_key="{tenant.id}")


# Keys of calls


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("reports", "reports"),
        ("tenant-{tenant_id}", "tenant-7"),
        ("{tenant_id}/{name}/{tenant_id}", "7/all/7"),  # a default counts as given
        ("{colour}", "red"),  # of **more
        ("{rest}", "()"),
        (lambda tenant_id, **more: f"t{tenant_id}-{more['colour']}", "t7-red"),
    ],
)
def test_a_key_is_built_from_the_arguments(key: Any, text: str) -> None:
    bound = declared(limit=Limit(key, 2), unique_key=key).bind(7, colour="red")
    row = bound.to_row()
    assert (row.limit_key, row.limit_max, row.limit_per, row.unique_key) == (text, 2, None, text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02 00:00:00+00:00"),
        ([1, "a"], "[1, 'a']"),
        ("{tenant_id}", "{tenant_id}"),  # what an argument says is taken as it is
    ],
)
def test_an_argument_is_written_as_python_writes_it(value: Any, text: str) -> None:
    assert declared(unique_key="{tenant_id}").bind(value).to_row().unique_key == text


def test_a_function_gets_its_own_copies_of_the_arguments() -> None:
    def key(tenant_id: list[int]) -> str:
        tenant_id.append(1)
        return str(tenant_id)

    ids = [0]
    bound = declared(unique_key=key).bind(ids)
    assert (bound.to_row().unique_key, bound.to_row().unique_key, ids) == ("[0, 1]", "[0, 1]", [0])


@pytest.mark.parametrize(
    ("key", "args", "error", "says"),
    [
        (
            lambda *args: None,
            [7],
            TypeError,
            "is None, which its function returned; it must be a text",
        ),
        (lambda *args: b"7", [7], TypeError, "is b'7', which"),
        (lambda *args: "", [7], ValueError, "of 0 characters"),
        ("{name}", [7, ""], ValueError, "of 0 characters"),
        ("{name}", [7, "x" * 100_000], ValueError, "of 100000 characters"),
        (lambda *args: "a\0", [7], ValueError, "NUL"),
        ("{tenant_id}", [{1, 2}], TypeError, "which is a set: it has no order"),
        (lambda tenant_id: 1 // 0, [7], ZeroDivisionError, "division"),
    ],
    ids=["nothing", "bytes", "empty", "empty-argument", "long-argument", "nul", "set", "raises"],
)
@pytest.mark.parametrize("option", KEYED)
def test_a_call_without_a_proper_key_is_an_error_and_nothing_is_written(
    engine: Engine, option: str, key: Any, args: list[Any], error: Any, says: str
) -> None:
    job = declared(**KEYED[option](key))
    with pytest.raises(error) as caught:
        job.run_later(*args)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 300
    assert not Job.objects.exists()
    assert not OutboxJob.objects.exists()


def test_a_step_with_parents_has_a_key_built_from_its_own_arguments(engine: Engine) -> None:
    step = declared(limit=Limit("{name}"))
    chain(declared().bind(1), step.bind("acme")).run_later()
    assert Job.objects.get(state="blocked").limit_key == "acme"
    for job in (
        declared(limit=Limit("{tenant_id}")),
        declared(lambda *parts: None, limit=Limit("{parts}")),
        declared(limit=Limit(lambda *args: "x")),
    ):
        with pytest.raises(TypeError, match=r"pipeline|not among the arguments"):
            chain(group(declared().bind(1), declared().bind(2)), job.bind("acme")).run_later()
    alone = chain(declared().bind(1), declared(limit=Limit("{tenant_id}")).bind_alone(7))
    alone.run_later()
    assert Job.objects.filter(limit_key="7", waits_for=1).count() == 1


@pytest.mark.parametrize("place", ["first", "later", "on_failure"])
def test_a_step_of_a_pipeline_has_no_unique_key(engine: Engine, place: str) -> None:
    unique, plain = declared(unique_key="a"), declared()
    pipelines = {
        "first": lambda: chain(unique.bind(1), plain.bind(1)),
        "later": lambda: chain(plain.bind(1), group(plain.bind(1), unique.bind(1))),
        "on_failure": lambda: chain(plain.bind(1), on_failure=unique.bind(1)),
    }
    with pytest.raises(ValueError, match="no step of a pipeline can have one"):
        pipelines[place]().run_later()
    assert not Job.objects.exists()


# Rows


def test_a_plain_row_has_no_constraints() -> None:
    row = declared().bind(7).to_row()
    assert (row.flags, row[-5:]) == (0, (None,) * 5)


def test_a_row_holds_its_constraints() -> None:
    job = declared(
        limit=Rate("api", 10, per=timedelta(minutes=1)),
        unique_key="{tenant_id}",
        unique_until="start",
        expires_after=30,
    )
    row = job.bind(7).to_row()
    assert row.flags == Flag.RATE_LIMITED | Flag.UNIQUE | Flag.UNTIL_START | Flag.EXPIRES
    assert row[-7:-2] == ("7", "api", 10, 60.0, row.created_at + 30)
    assert declared(limit=Limit("a")).bind(7).to_row().flags == Flag.LIMITED


def test_an_expiry_counts_from_the_earliest_start() -> None:
    job = declared(expires_after=timedelta(seconds=30))
    later = job.using(run_after=timedelta(hours=1)).bind(7).to_row()
    assert later.run_after is not None
    assert later.expires_at == later.run_after + 30
    past = job.using(run_after=timedelta(hours=-1)).bind(7).to_row()
    assert (past.state, past.expires_at) == (State.READY, past.created_at + 30)
    # The last possible day has no day after it.
    last = job.using(run_after=datetime(9998, 12, 31, 23, 59, 59, tzinfo=UTC)).bind(7).to_row()
    assert last.expires_at == last.run_after
