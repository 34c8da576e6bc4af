"""What people type, have and run into: each situation through the real command, judged by values known beforehand."""

import pytest

MODULES = ("case", "containers", "names", "folders", "networks", "outputs", "environments")
pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in MODULES))
