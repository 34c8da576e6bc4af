"""Strategies for study: `uniform`, `learned` and `gate` are baselines and comparisons; none is recommended."""
