"""The processor's name, its special instructions, its number of cores, and how many threads compute on them."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

CPUINFO = Path("/proc/cpuinfo")
GROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")
"""The kernel's control groups, and the file that names this process's own: `0::/system.slice/camera.service`."""
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


def cpu_quota(groups: Path = GROUPS, own: Path = OWN_GROUP) -> int | None:
    """Whole CPUs that quotas allow this process (`docker run --cpus 2`, systemd's `CPUQuota=`), at least 1; None
    without one.
    """
    try:
        lines = own.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    # A quota of a group holds for those within it. `cpu` is the folder of version 1 of the control groups.
    found = [_quota(groups / folder / "cpu.max") for folder in (path, *map(str, PurePosixPath(path).parents))]
    found.append(_quota(groups / "cpu/cpu.cfs_quota_us", groups / "cpu/cpu.cfs_period_us"))
    return min((quota for quota in found if quota is not None), default=None)


def _quota(*files: Path) -> int | None:
    """The whole CPUs of a quota and its period, in one file or two; None if there is none."""
    try:
        quota, period = " ".join(file.read_text(encoding="ascii") for file in files).split()
        return max(1, int(quota) // int(period)) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # `max 100000` says that there is none
        return None


def physical_cores() -> int:
    """Number of physical cores that this process may use, by its affinity and its quota of CPU time.

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
