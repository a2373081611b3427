"""Edges of pipelines."""

from __future__ import annotations

from django.db import models


class Dependency(models.Model):
    """An edge of a pipeline: one job that depends on another.

    Where a pipeline ends with a group, edges lead from the group's last jobs to the pipeline's own id, so that
    its handle finds their results in order.

    Attributes:
        parent: the job that must end first.
        child: the dependent job.
        result_path: where the parent's result goes in the input of the child: "" as the whole input, "2" or
            "0/3" into a list, nested as the groups are; "!" for an edge to an `on_failure` job, which carries
            no result.
    """

    pk = models.CompositePrimaryKey("parent", "child")
    parent = models.UUIDField(editable=False)
    child = models.UUIDField(editable=False)
    result_path = models.TextField(blank=True)

    class Meta:
        db_table = "djjp_dependency"
        indexes = [models.Index(fields=["child"], name="djjp_dependency_child")]

    def __str__(self) -> str:
        return f"{self.child} waits for {self.parent}"
