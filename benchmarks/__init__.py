"""Measurements that the documentation quotes: run from a checkout, not part of any wheel."""

import aselect_runtime  # noqa: F401 - first, because it switches telemetry off
