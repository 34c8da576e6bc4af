"""Figures of the runtime. `python -m benchmarks.runtime --help` lists them; main_job measures the speed too."""

from benchmarks.runtime.speed import default_video, measure

__all__ = ["default_video", "measure"]
