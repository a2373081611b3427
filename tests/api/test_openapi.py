"""The document of the interface: each endpoint with its answers and errors, and the arguments of the jobs."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from decimal import Decimal
from typing import Any, Literal

import pytest

from djjp import errors, job
from djjp.api import openapi
from djjp.api.arguments import example_of, misfits, schema_of
from djjp.api.frame import ENDPOINTS
from tests.api import jobs
from tests.api.conftest import API
from tests.support.json_schema import problems

TAGGED = {"required": ["$djjp", "value"], "additionalProperties": False, "type": "object"}


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


@pytest.mark.one_database
def test_the_document_has_each_endpoint_with_its_errors(api: API) -> None:
    _, document, _ = api("GET", "/v1/openapi.json")
    assert document["openapi"] == "3.1.0"
    assert document["servers"] == [{"url": "/djjp"}]
    known = document["components"]["schemas"]
    assert {each.rpartition("/")[2] for each in references(document)} <= set(known)
    for each in ENDPOINTS:
        path = each.path.replace("{path:", "{")
        operation = document["paths"][path][each.method.lower()]
        assert operation["summary"].endswith((".", ";", ",")) or operation["summary"]
        needed = {str(status) for status in each.answers} | {"400", "405", "406", "500", "503"}
        if each.scope is not None:
            assert operation["security"] == [{"token": []}]
            needed |= {"401", "403"}
        if each.body is not None:
            needed |= {"413", "415", "422"}
        assert needed <= set(operation["responses"])
        for status, response in operation["responses"].items():
            kinds = {"application/problem+json"}
            if int(status) < 400:
                kinds = {kind.partition(";")[0] for kind in each.media_types}
            assert set(response["content"]) == kinds
    ids = [each["operationId"] for path in document["paths"].values() for each in path.values()]
    assert len(ids) == len(set(ids))


@pytest.mark.one_database
def test_the_document_has_the_jobs_that_the_token_can_enqueue(api: API) -> None:
    _, document, _ = api("GET", "/v1/openapi.json")
    calls = document["components"]["schemas"]
    assert calls["Call_of_api.add"]["properties"]["kwargs"]["properties"] == {
        "a": {"type": "integer"},
        "b": {"type": "integer"},
    }
    assert calls["Call_of_api.add"]["description"] == "Add two numbers."
    assert "Call_of_api.private" not in calls
    narrow = API(jobs="api.pay")("GET", "/v1/openapi.json")[1]["components"]["schemas"]
    assert {name for name in narrow if name.startswith("Call_of")} == {"Call_of_api.pay"}


def test_annotations_become_the_schema_of_arguments() -> None:
    @job(name="api.annotated", api=True)
    def annotated(
        a: int | None,
        b: list[str],
        c: dict[str, float],
        d: Literal["x", "y"],
        e: Decimal,
        *more: bool,
        f: dt.date = dt.date.min,
        g: object = None,
        **rest: uuid.UUID,
    ) -> None: ...

    found = schema_of(annotated)
    assert found["args"]["prefixItems"] == [
        {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        {"type": "array", "items": {"type": "string"}},
        {"type": "object", "additionalProperties": {"type": "number"}},
        {"enum": ["x", "y"]},
        {**TAGGED, "properties": {"$djjp": {"const": "decimal"}, "value": {}}},
    ]
    assert found["args"]["items"] == {"type": "boolean"}
    assert found["kwargs"]["properties"]["g"] == {}
    assert found["kwargs"]["additionalProperties"]["properties"]["$djjp"] == {"const": "uuid"}


def test_values_that_do_not_fit_the_annotations_are_found() -> None:
    assert misfits(jobs.add, [1], {"b": 2}) == []
    assert misfits(jobs.pay, [Decimal(1)], {}) == []
    assert [each["pointer"] for each in misfits(jobs.pay, [1.5], {})] == ["#/args/0"]
    assert misfits(jobs.take_anything, [1, None, {}], {"x/~": object()}) == []
    assert [each["pointer"] for each in misfits(jobs.add, [True, "x"], {})] == [
        "#/args/0",
        "#/args/1",
    ]


def test_each_error_of_the_interface_is_in_the_catalogue() -> None:
    for each in ENDPOINTS:
        assert set(each.problems) <= set(errors.KINDS.values())


def document_of(api: API) -> dict[str, Any]:
    """Return the document with its schemas where the validator looks for them."""
    text = json.dumps(api("GET", "/v1/openapi.json")[1])
    found: dict[str, Any] = json.loads(text.replace("#/components/schemas/", "#/$defs/"))
    return {**found, "$defs": found["components"]["schemas"]}


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


@pytest.mark.one_database
def test_each_body_and_each_answer_has_an_example_that_fits_its_schema(api: API) -> None:
    document = document_of(api)
    for method, path, operation in operations(document):
        contents = [operation["requestBody"]["content"]] if "requestBody" in operation else []
        contents += [
            response["content"]
            for status, response in operation["responses"].items()
            if int(status) < 400
        ]
        for content in contents:
            for each in content.values():
                examples = [example["value"] for example in each["examples"].values()]
                assert examples, (method, path)
                for value in examples:
                    assert problems(value, each["schema"], document) == [], (method, path)
    wrong = {**examples_of_calls(document)[0], "kwargs": {"b": "text"}}
    schema = document["$defs"]["Call_of_api.add"]
    assert problems({**wrong, "name": "api.add"}, schema, document), "the validator finds errors"


def examples_of_calls(document: dict[str, Any]) -> list[dict[str, Any]]:
    content = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]
    return [each["value"] for each in content["application/json"]["examples"].values()]


@pytest.mark.one_database
def test_the_example_of_each_job_can_be_enqueued(api: API) -> None:
    @job(name="api.exemplary", api=True)
    def exemplary(  # type: ignore[no-untyped-def]  # one parameter has no annotation
        a: int,
        b: str | None,
        /,
        c: list[int],
        d: dict[str, int],
        e: Literal["x", "y"],
        f: Decimal,
        g: dt.datetime,
        h: dt.timedelta,
        i: bytes,
        j: uuid.UUID,
        k: tuple[int, ...],
        l: set[int],  # noqa: E741
        unknown,
        *more: int,
        m: float,
        n: dt.date,
        o: dt.time,
        p: bool,
        q: int = 5,
        **rest: str,
    ) -> None: ...

    for each in openapi.enqueueable("api.*"):
        call = example_of(each)
        document = openapi.made("", [each])
        text = json.dumps(document["components"]["schemas"]).replace(
            "#/components/schemas/", "#/$defs/"
        )
        schemas = json.loads(text)
        assert problems(call, schemas["AnyCall"], {"$defs": schemas}) == []
        status, answer, _ = api("POST", "/v1/jobs", call)
        assert status == 201, answer
    assert set(example_of(exemplary)["kwargs"]) == set("cdefghijklmnop") | {"unknown"}
    assert len(example_of(exemplary)["args"]) == 2


@pytest.mark.one_database
def test_a_parameter_without_an_annotation_takes_anything(api: API) -> None:
    @job(name="api.bare", api=True)
    def bare(value, *, key) -> None: ...  # type: ignore[no-untyped-def]

    found = schema_of(bare)
    assert found["args"]["prefixItems"] == [{}]
    assert found["kwargs"]["required"] == ["key"]


@pytest.mark.one_database
def test_the_links_of_an_answer_lead_to_endpoints_that_take_its_ids(api: API) -> None:
    document = document_of(api)
    known = {operation["operationId"]: operation for _, _, operation in operations(document)}
    linked: set[str] = set()
    for _, _, operation in operations(document):
        for response in operation["responses"].values():
            content = response["content"].get("application/json")
            for link in response.get("links", {}).values():
                target = known[link["operationId"]]
                linked.add(link["operationId"])
                ((parameter, expression),) = link["parameters"].items()
                names = {each["name"] for each in target["parameters"] if each["in"] == "path"}
                assert names == {parameter}
                value = content["examples"]["one"]["value"]
                for step in expression.removeprefix("$response.body#/").split("/"):
                    value = value[int(step) if step.isdigit() else step]
                assert isinstance(value, str)
    with_a_place = {
        id for id, each in known.items() if any(p["in"] == "path" for p in each["parameters"])
    }
    assert linked == with_a_place, "each address with an id can be reached"
    links = document["paths"]["/v1/jobs"]["post"]["responses"]["201"]["links"]
    assert {"job", "explanation", "cancel", "retry", "run"} == set(links)


@pytest.mark.one_database
def test_a_whole_number_with_a_decimal_point_is_one(api: API) -> None:
    call = {"name": "api.add", "args": [1], "priority": 3.0}
    status, document, _ = api("POST", "/v1/jobs", call)
    assert (status, document["priority"]) == (201, 3)
    assert api("POST", "/v1/jobs", {**call, "priority": 3.5})[0] == 422
    bounds = openapi.made("", [])["components"]["schemas"]["AnyCall"]["properties"]["priority"]
    assert bounds["anyOf"][0] == {"type": "integer", "minimum": -32768, "maximum": 32767}
    wish = {"verb": "retry", "filter": {"attempts": 1.0}, "dry_run": True}
    assert api("POST", "/v1/operations", wish)[0] == 200
    status, document, _ = api("POST", "/v1/jobs", {**call, "run_after": []})
    assert {each["pointer"] for each in document["errors"]} == {"#/run_after"}
