"""The addresses of the HTTP interface, beneath the path at which a project includes them."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, re_path
from ninja import NinjaAPI

from djjp.api import (  # noqa: F401  (they define the endpoints)
    enqueue,
    jobs,
    metrics,
    openapi,
    operations,
    resources,
)
from djjp.api.frame import ENDPOINTS, framed, nothing
from djjp.api.problems import answer_to


class _API(NinjaAPI):
    """Routes requests to the endpoints; its own pages and errors are not used."""

    def on_exception(self, request: HttpRequest, exc: Any) -> HttpResponse:
        return answer_to(request, exc)


_api = _API(title="djjp", docs_url=None, openapi_url=None, urls_namespace="djjp-api")
# What has a fixed path comes before what has a part of any text in its place.
for each in sorted(ENDPOINTS, key=lambda each: "{" in each.path):
    _api.api_operation([each.method], each.path, url_name=each.handler.__name__)(each.view)

app_name = "djjp_api"
urlpatterns = []
for pattern in _api.urls[0]:
    if isinstance(pattern, URLPattern) and pattern.name != "api-root":
        pattern.callback = framed(pattern.callback)
        urlpatterns.append(pattern)
urlpatterns.append(re_path("", nothing))
