"""Links of answers: the addresses that take the id or the name in an answer, as OpenAPI has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from djjp.api.frame import Endpoint

_JOB, _PIPELINE = "/v1/jobs/{id}", "/v1/pipelines/{id}"
_OPERATION = "/v1/operations/{id}"
_QUEUE, _SCHEDULE = "/v1/queues/{path:name}", "/v1/schedules/{path:name}"
#: The places of ids and names by the shape of the answer, with the path that takes them.
_PLACES = {
    "AnyJob": ("/id", _JOB),
    "Explanation": ("/job/id", _JOB),
    "Failures": ("/failures/0/example", _JOB),
    "Ids": ("/jobs/0/id", _JOB),
    "Jobs": ("/jobs/0/id", _JOB),
    "Operation": ("/id", _OPERATION),
    "Operations": ("/operations/0/id", _OPERATION),
    "Pause": ("/name", _QUEUE),
    "Pipeline": ("/id", _PIPELINE),
    "Queues": ("/queues/0/name", _QUEUE),
    "Schedule": ("/name", _SCHEDULE),
    "Schedules": ("/schedules/0/name", _SCHEDULE),
}


def links(shape: str, endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Return the links of an answer of a shape: each endpoint of the resource that it names."""
    if shape not in _PLACES:
        return {}
    place, path = _PLACES[shape]
    parameter = "id" if path.endswith("{id}") else "name"
    return {
        each.handler.__name__: {
            "operationId": each.handler.__name__,
            "parameters": {parameter: f"$response.body#{place}"},
        }
        for each in endpoints
        if each.path == path or each.path.startswith(f"{path}/")
    }
