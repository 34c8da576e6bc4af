"""The pipeline: frames in, results out; all stages run concurrently."""

from aselect_runtime.pipeline.run import run_pipeline

__all__ = ["run_pipeline"]
