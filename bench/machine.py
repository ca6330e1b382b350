"""What a figure was measured on: processor, memory, GPU, versions, and whether it was quiet."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

# Of a processor's flags, those that decide which kernels onnxruntime and torch take.
FLAGS = (
    "avx2",
    "fma",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)
PACKAGES = ("proguard-edge", "onnxruntime", "onnxruntime-gpu", "numpy", "torch", "transformers")
RAPL = Path("/sys/class/powercap")
BUSY = 0.3


def machine() -> dict[str, Any]:
    """The block that stands in every report; what the system does not tell is None."""
    return {
        "cpu": _cpu_name(),
        "flags": _flags(),
        "cores": cores(),
        "governor": _read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "memory_gb": _memory_gb(),
        "gpus": gpus(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def warning(block: dict[str, Any]) -> str | None:
    """One line where the block says that the figures cannot be trusted."""
    load = block["load_before"]
    if load is not None and load > BUSY * block["cores"]:
        return f"the machine was busy (load {load} on {block['cores']} cores): times are too long"
    return None


def gpus() -> list[str]:
    """Name, driver and memory of every NVIDIA GPU, as `nvidia-smi` tells."""
    if shutil.which("nvidia-smi") is None:
        return []
    fields = "name,driver_version,memory.total,clocks.max.sm"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


class Energy:
    """Joules of the processor's packages since the last `take`, by RAPL; None where it is shut."""

    def __init__(self, root: Path = RAPL) -> None:
        self._files = sorted(root.glob("intel-rapl:[0-9]*/energy_uj"))
        self._files = [f for f in self._files if f.parent.name.count(":") == 1]
        self._last = self._now()

    def take(self) -> float | None:
        """Raises nothing: a counter that cannot be read gives None."""
        before, self._last = self._last, self._now()
        if before is None or self._last is None:
            return None
        spent = 0
        for file, old, new in zip(self._files, before, self._last, strict=True):
            most = _read(file.parent / "max_energy_range_uj")
            # The counter wraps.
            spent += new - old if new >= old else new - old + int(most or 0)
        return spent / 1e6

    def _now(self) -> list[int] | None:
        found = [_read(file) for file in self._files]
        if not found or None in found:
            return None
        return [int(value) for value in found if value is not None]


def resident_mb() -> float | None:
    """Memory that this process holds now, in MB."""
    status = _status("VmRSS")
    return None if status is None else status / 1e3


def peak_mb() -> float | None:
    """The most that it ever held, in MB."""
    status = _status("VmHWM")
    return None if status is None else status / 1e3


def gpu_memory_mb() -> float | None:
    """Memory of all GPUs that this process uses, in MB; None without a GPU."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = [
        "nvidia-smi",
        "--query-compute-apps=pid,used_memory",
        "--format=csv,noheader,nounits",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    rows = [line.split(",") for line in done.stdout.splitlines() if "," in line]
    own = [float(used) for pid, used in rows if pid.strip() == str(os.getpid())]
    return sum(own) if own else None


def _cpu_name() -> str:
    for line in (_read(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _flags() -> list[str]:
    for line in (_read(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith(("flags", "Features")):
            there = set(line.partition(":")[2].split())
            return [flag for flag in FLAGS if flag in there]
    return []


def _memory_gb() -> float | None:
    for line in (_read(Path("/proc/meminfo")) or "").splitlines():
        if line.startswith("MemTotal"):
            return round(int(line.split()[1]) * 1024 / 1e9, 1)
    return None


def _status(name: str) -> float | None:
    """Kilobytes, of 1,024 bytes, as kilobytes of 1,000."""
    for line in (_read(Path("/proc/self/status")) or "").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1.024
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
