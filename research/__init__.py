"""Pretraining and its studies: run from a checkout, in no wheel."""

import aselect_runtime  # noqa: F401 - first, because it switches telemetry off
