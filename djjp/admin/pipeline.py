"""The pipeline on a job's page: the job's parents and its dependents."""

from __future__ import annotations

from typing import Any

from django.urls import reverse
from django.utils.translation import gettext as _

from djjp.admin import display
from djjp.engine.result_paths import ON_FAILURE
from djjp.models import Dependency, Job

#: Maximum number of jobs shown on each side.
SHOWN = 20


def neighbours(job: Job, site_name: str) -> dict[str, Any] | None:
    """Return the job's pipeline and its neighbours in it; None for a job outside of pipelines."""
    if job.pipeline is None:
        return None
    edges = Dependency.objects.order_by("parent", "child")
    parents = edges.filter(child=job.pk).values_list("parent", "result_path")
    # The edges of a pipeline's last group lead to the pipeline itself, which is not a job.
    children = edges.filter(parent=job.pk).values_list("child", "result_path")
    return {
        "url": reverse("admin:djjp_job_pipeline", args=[job.pipeline], current_app=site_name),
        "id": job.pipeline,
        "sides": [
            (_("Runs after"), *_shown(list(parents[: SHOWN + 1]), site_name)),
            (_("Runs before"), *_shown(list(children[: SHOWN + 1]), site_name)),
        ],
    }


def _shown(edges: list[tuple[Any, str]], site_name: str) -> tuple[list[dict[str, Any]], bool]:
    """Return the jobs to show, and whether there are more."""
    ids = [id for id, _path in edges]
    found = Job.objects.only("pk", "name", "state", "cancel_requested", "flags").in_bulk(
        ids[:SHOWN]
    )
    shown = [
        {
            "url": reverse("admin:djjp_job_change", args=[id], current_app=site_name),
            "name": found[id].name,
            "state": display.badge(found[id]),
            "on_failure": path == ON_FAILURE,
        }
        for id, path in edges[:SHOWN]
        if id in found
    ]
    return shown, len(ids) > SHOWN
