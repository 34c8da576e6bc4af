"""The pipeline: frames in, results out; every stage overlaps with the others."""

from aselect_runtime.pipeline.run import run_pipeline

__all__ = ["run_pipeline"]
