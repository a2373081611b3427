"""The addresses of a project with the HTTP interface."""

from django.urls import include, path

urlpatterns = [path("djjp/", include("djjp.api.urls"))]
