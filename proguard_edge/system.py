"""What the system tells of this machine: processor, cores, memory, GPUs, versions.

What it does not tell is None or empty: nothing here raises. Sizes are in bytes.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

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
GPU_SECONDS = 20


@dataclass(frozen=True)
class Memory:
    """Bytes: all there is, what can be had without swapping, swap, and swap in use."""

    total: int
    available: int
    swap: int
    swapped: int


def read(path: Path) -> str | None:
    """A small text file without the white space around it, None where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None


def processor() -> str:
    """Its name."""
    for line in (read(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def flags() -> list[str]:
    """Those of FLAGS that the processor has."""
    for line in (read(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith(("flags", "Features")):
            there = set(line.partition(":")[2].split())
            return [flag for flag in FLAGS if flag in there]
    return []


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load() -> float | None:
    """Processes that ran or wanted to, on average over the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def memory() -> Memory | None:
    """Of the machine, whatever this process may have of it."""
    kilobytes = {}
    for line in (read(Path("/proc/meminfo")) or "").splitlines():
        name, _, value = line.partition(":")
        if value.split()[:1] and value.split()[0].isdigit():
            kilobytes[name] = int(value.split()[0])
    if not {"MemTotal", "MemAvailable"} <= set(kilobytes):
        return None
    swap = kilobytes.get("SwapTotal", 0)
    swapped = swap - kilobytes.get("SwapFree", swap)
    sizes = (kilobytes["MemTotal"], kilobytes["MemAvailable"], swap, swapped)
    return Memory(*(1024 * size for size in sizes))


def own_memory(name: str = "VmRSS") -> int | None:
    """What this process holds now (VmRSS), or the most that it ever held (VmHWM)."""
    for line in (read(Path("/proc/self/status")) or "").splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    return None


def gpus() -> list[str]:
    """Name, driver, memory and clock of every NVIDIA GPU, as `nvidia-smi` tells."""
    if shutil.which("nvidia-smi") is None:
        return []
    fields = "name,driver_version,memory.total,clocks.max.sm"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=GPU_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode:
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def version(name: str) -> str | None:
    """Of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
