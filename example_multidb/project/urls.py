"""The project's pages: the admin, to which the front page redirects, and the queue over HTTP."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
    path(
        "djjp/", include("djjp.api.urls")
    ),  # djjp: with tokens; `djjp/v1/metrics` is for Prometheus
]
