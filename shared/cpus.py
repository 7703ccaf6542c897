"""How many cores this process may really use: what it may be scheduled on, cut by the quotas of its control groups.

`os.cpu_count()` is the machine's: in a container with two of 64 cores, pools of that size only wait for each other.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

UNLIMITED = float("inf")


def usable_cpus(root: Path = Path("/")) -> int:
    """Cores for this process, at least 1.

    Args:
        root: where /proc and /sys are.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cpus_within(affinity, cgroup_quotas(root))


def cpus_within(affinity: int, quotas: Iterable[float]) -> int:
    """Whole cores within an affinity and quotas, at least 1. Half a core more is no core: its thread would be throttled."""
    return max(1, int(min([affinity, *quotas])))


def cgroup_quotas(root: Path) -> Iterator[float]:
    """Cores that each control group above this process allows, under version 2 (`cpu.max`) and version 1 (`cpu.cfs_*`).

    A container sees its own group as the root, or is told a path of the host that does not exist inside: so every folder
    from the named one up to the root is looked at, and those that are missing say nothing.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            read, mounts = _version_2, ["sys/fs/cgroup"]
        elif "cpu" in controllers.split(","):
            read, mounts = _version_1, [f"sys/fs/cgroup/{controllers}", "sys/fs/cgroup/cpu"]
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        for mount in mounts:
            for folder in (group, *group.parents):
                yield read(root / mount / folder)


def _version_2(folder: Path) -> float:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such group, or "max": no quota
        return UNLIMITED


def _version_1(folder: Path) -> float:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else UNLIMITED
    except (OSError, ValueError, ZeroDivisionError):
        return UNLIMITED
