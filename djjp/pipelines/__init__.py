"""Pipelines: jobs that run one after the other, or side by side, and pass their results on."""

from djjp.jobs.pipeline_handles import GroupHandle, PipelineHandle, aget_pipeline, get_pipeline
from djjp.pipelines.build import Expansion, Pipeline, Step, chain, expand, group

__all__ = [
    "Expansion",
    "GroupHandle",
    "Pipeline",
    "PipelineHandle",
    "Step",
    "aget_pipeline",
    "chain",
    "expand",
    "get_pipeline",
    "group",
]
