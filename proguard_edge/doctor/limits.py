"""What a control group lets this process have, of version 1 and 2: containers, systemd units."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from proguard_edge import system

ROOT = Path("/")


def cpu_quota(root: Path = ROOT) -> float | None:
    """Cores' worth of time that may be used; None where it is not limited."""
    quotas = []
    for folder in _folders(root, "cpu"):
        if text := system.read(folder / "cpu.max"):
            quota, period = (*text.split(), "100000")[:2]
        else:
            quota = system.read(folder / "cpu.cfs_quota_us") or "max"
            period = system.read(folder / "cpu.cfs_period_us") or "100000"
        if quota.isdigit() and period.isdigit() and int(period):
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def memory_limit(root: Path = ROOT) -> tuple[int, int] | None:
    """The limit that leaves least, and what it leaves, in bytes; None where there is none."""
    found = []
    for folder in _folders(root, "memory"):
        for limit, usage, inactive in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            most, used = _number(folder / limit), _number(folder / usage)
            # Version 1 writes "no limit" as the largest multiple of a page.
            if most is not None and used is not None and most < 1 << 62:
                # Pages of files that nobody needs are given up before the limit strikes.
                spare = _stat(folder / "memory.stat", inactive)
                found.append((most, max(most - used + spare, 0)))
    return min(found, key=lambda pair: pair[1], default=None)


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """The groups of this process, from its own to the outermost."""
    base = root / "sys/fs/cgroup"
    for line in (system.read(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            top = base if (base / "cgroup.controllers").is_file() else base / "unified"
        elif controller in controllers.split(","):
            top = base / controller
        else:
            continue
        group = Path(path.lstrip("/"))
        for part in (group, *group.parents):
            if ".." not in part.parts:
                yield top / part


def _number(path: Path) -> int | None:
    text = system.read(path)
    return int(text) if text is not None and text.isdigit() else None


def _stat(path: Path, name: str) -> int:
    for line in (system.read(path) or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return 0
