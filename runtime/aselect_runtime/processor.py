"""The processor's name, its special instructions, its number of cores, and how many threads compute on them."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
LIMITS = Path("/sys/fs/cgroup/cpu.max")
OLDER_LIMITS = Path("/sys/fs/cgroup/cpu")
"""Folder of the same in version 1 of the kernel's control groups."""
BF16 = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16"}
"""Linux CPU flags of the instructions that multiply bfloat16, the faster ones first."""
VNNI = frozenset({"avx512_vnni", "avx_vnni"})
"""Linux CPU flags of the x86 instructions that multiply and add INT8 without saturating."""


@dataclass(frozen=True)
class Processor:
    """A processor's name and the CPU flags that the kernel lists."""

    name: str
    flags: frozenset[str]

    @property
    def bf16(self) -> str | None:
        """Name of the instruction set that multiplies bfloat16, None if it would be emulated."""
        return next((name for flag, name in BF16.items() if flag in self.flags), None)

    @property
    def vnni(self) -> bool:
        """Whether it is known to multiply and add INT8 without saturating in 16 bits."""
        return not VNNI.isdisjoint(self.flags)


def processor(cpuinfo: Path = CPUINFO) -> Processor:
    """The first processor of this machine; without flags if the kernel does not list them."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].splitlines()
    except OSError:
        lines = []
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", fields.get("features", ""))
    return Processor(fields.get("model name", platform.machine()), frozenset(flags.split()))


def cpu_quota(limits: Path = LIMITS, older: Path = OLDER_LIMITS) -> int | None:
    """Whole CPUs that a container's quota allows (`docker run --cpus 2`), at least 1; None without a quota."""
    try:
        if limits.is_file():
            quota, period = limits.read_text(encoding="ascii").split()
        else:
            quota, period = ((older / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
        return max(1, int(quota) // int(period)) if int(quota) > 0 else None
    except (OSError, ValueError):  # `max 100000` says that there is none
        return None


def physical_cores() -> int:
    """Number of physical cores that this process may use, by its affinity and its container's quota of CPU time.

    Hyper-threads of one core count once.
    """
    allowed = os.sched_getaffinity(0)
    siblings = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    try:
        cores = len({Path(siblings.format(cpu)).read_text() for cpu in allowed})
    except OSError:  # some containers hide the topology
        cores = len(allowed)
    return min(cores, cpu_quota() or cores)


def compute_threads() -> int:
    """Number of CPU threads that sessions compute with: what OMP_NUM_THREADS says, else one per physical core.

    `--threads` of a command sets that variable, so that torch, ONNX Runtime and OpenVINO agree in one process.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # "4,2" is for nested loops
    return int(asked) if asked.isdecimal() and int(asked) > 0 else physical_cores()
