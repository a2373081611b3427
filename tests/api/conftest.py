"""A client of the HTTP interface, with a token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client, override_settings

from djjp import tokens
from djjp.api import openapi
from djjp.engine import Engine
from tests.api import jobs  # noqa: F401  (it registers them)
from tests.support.json_schema import problems


@cache
def problem_schema() -> dict[str, Any]:
    """Return the schema of a problem; it has no references."""
    found: dict[str, Any] = openapi.made("", [])["components"]["schemas"]["Problem"]
    return found


class API:
    """Sends requests with a token, and validates each answer against the document."""

    def __init__(self, scope: str = "operate", **options: Any) -> None:
        self.made, self.token = tokens.create(f"{scope}-{len(tokens.tokens())}", scope, **options)
        self.client = Client(enforce_csrf_checks=True)

    def __call__(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, Any, HttpResponse]:
        given = {"Authorization": f"Bearer {self.token}"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, (bytes, str)) else "" if body is None else json.dumps(body)
        kind = given.pop("Content-Type", "application/json")
        response: Any = self.client.generic(
            method, f"/djjp{path}", data, content_type=kind, headers=given
        )
        is_json = response["Content-Type"].partition(";")[0].endswith("json")
        document = json.loads(response.content) if is_json else response.content.decode()
        if response.status_code >= 400:
            self.require_problem(response, document)
        return response.status_code, document, response

    @staticmethod
    def require_problem(response: Any, document: Any) -> None:
        assert response["Content-Type"] == "application/problem+json"
        assert problems(document, problem_schema(), {}) == []
        assert document["status"] == response.status_code
        assert document["type"] == f"docs/errors.md#{document['slug']}"


@pytest.fixture
def api(engine: Engine) -> Iterator[API]:
    """A client with all rights."""
    with override_settings(ROOT_URLCONF="tests.api.urls"):
        yield API(arguments=True)
