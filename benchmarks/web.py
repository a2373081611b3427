"""The project behind the web server of `http.py`: djjp's HTTP interface, and bare views of Django beside it."""

from __future__ import annotations

import json

from django.http import HttpRequest, JsonResponse
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

from benchmarks.jobs import noop


@csrf_exempt
def bare(request: HttpRequest) -> JsonResponse:
    """Read a call and answer, with nothing between."""
    return JsonResponse({"args": json.loads(request.body)["args"]}, status=201)


@csrf_exempt
def enqueue(request: HttpRequest) -> JsonResponse:
    """Enqueue a call, as the view of a project does."""
    handle = noop.run_later(*json.loads(request.body)["args"])
    return JsonResponse({"id": str(handle.id)}, status=201)


urlpatterns = [
    path("bare", bare),
    path("enqueue", enqueue),
    path("djjp/", include("djjp.api.urls")),
]
