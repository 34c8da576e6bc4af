"""Reading a board's temperatures, and the power mode of a Jetson."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path("/")


def temperatures(root: Path = ROOT) -> dict[str, float]:
    """Degrees Celsius by name of the thermal zone (/sys/class/thermal); empty if there is none."""
    found = {}
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        try:
            name, value = (zone / "type").read_text().strip(), int((zone / "temp").read_text())
        except (OSError, ValueError):  # the zone of a component that is switched off cannot be read
            continue
        found[name.removesuffix("-thermal")] = value / 1000
    return found


def power_mode(root: Path = ROOT) -> str | None:
    """Name of the power mode that nvpmodel has set, its number if the name is unknown, None on other boards."""
    try:
        status = (root / "var/lib/nvpmodel/status").read_text()
    except OSError:
        return None
    match = re.search(r"pmode:\s*(\d+)", status)
    if not match:
        return None
    number = int(match[1])
    try:
        models = (root / "etc/nvpmodel.conf").read_text()
    except OSError:
        return str(number)
    name = re.search(rf"<\s*POWER_MODEL\s+ID={number}\s+NAME=(\S+?)\s*>", models)
    return name[1] if name else str(number)
