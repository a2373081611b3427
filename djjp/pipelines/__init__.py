"""Pipelines: jobs that run one after the other, or side by side, and pass their results on."""

from djjp.pipelines.build import Pipeline, chain, group
from djjp.pipelines.handles import GroupHandle, PipelineHandle, aget_pipeline, get_pipeline

__all__ = [
    "GroupHandle",
    "Pipeline",
    "PipelineHandle",
    "aget_pipeline",
    "chain",
    "get_pipeline",
    "group",
]
