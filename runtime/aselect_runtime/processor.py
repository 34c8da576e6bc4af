"""What the processor is and can do."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BF16 = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16"}
"""Linux' flags of the instructions that multiply bfloat16, the faster ones first."""


@dataclass(frozen=True)
class Processor:
    """Its name and the instruction sets that the kernel lists."""

    name: str
    flags: frozenset[str]

    @property
    def bf16(self) -> str | None:
        """The instructions by which it multiplies bfloat16, None where that would be emulated."""
        return next((name for flag, name in BF16.items() if flag in self.flags), None)


def processor(cpuinfo: Path = CPUINFO) -> Processor:
    """The first processor of this machine, without flags where the kernel does not tell."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].splitlines()
    except OSError:
        lines = []
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", fields.get("features", ""))
    return Processor(fields.get("model name", platform.machine()), frozenset(flags.split()))


def physical_cores() -> int:
    """How many physical cores this process may use (hyper-threads of one core count once)."""
    allowed = os.sched_getaffinity(0)
    siblings = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    try:
        return len({Path(siblings.format(cpu)).read_text() for cpu in allowed})
    except OSError:  # not every container shows its topology
        return len(allowed)
