"""What a figure was measured on: processor, memory, GPU, versions, and whether it was quiet."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from proguard_edge import system

PACKAGES = ("proguard-edge", "onnxruntime", "onnxruntime-gpu", "numpy", "torch", "transformers")
RAPL = Path("/sys/class/powercap")
BUSY = 0.3


def machine() -> dict[str, Any]:
    """The block that stands in every report; what the system does not tell is None."""
    memory = system.memory()
    return {
        "cpu": system.processor(),
        "flags": system.flags(),
        "cores": system.cores(),
        "governor": system.read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "memory_gb": round(memory.total / 1e9, 1) if memory else None,
        "gpus": system.gpus(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := system.version(name))},
        "load_before": system.load(),
    }


def warning(block: dict[str, Any]) -> str | None:
    """One line where the block says that the figures cannot be trusted."""
    load = block["load_before"]
    if load is not None and load > BUSY * block["cores"]:
        return f"the machine was busy (load {load} on {block['cores']} cores): times are too long"
    return None


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
            most = system.read(file.parent / "max_energy_range_uj")
            # The counter wraps.
            spent += new - old if new >= old else new - old + int(most or 0)
        return spent / 1e6

    def _now(self) -> list[int] | None:
        found = [system.read(file) for file in self._files]
        if not found or None in found:
            return None
        return [int(value) for value in found if value is not None]


def resident_mb() -> float | None:
    """Memory that this process holds now, in MB."""
    held = system.own_memory()
    return None if held is None else held / 1e6


def peak_mb() -> float | None:
    """The most that it ever held, in MB."""
    held = system.own_memory("VmHWM")
    return None if held is None else held / 1e6


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
