"""The processor: cores to be had, kernels that run on it, and whether it adds integers right."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator

from proguard_edge import system
from proguard_edge.doctor.finding import Finding, Subject
from proguard_edge.doctor.limits import cpu_quota

NAME = "processor"
# Load for each core from which times say little, as `bench` has it.
BUSY = 0.3
PROBE_S = 60.0


def check(subject: Subject) -> Iterator[Finding]:
    """Cores, load, features."""
    yield cores(system.cores(), os.cpu_count() or 1, cpu_quota())
    yield from busy(system.load(), system.cores())
    exact = subject.helper.run(_products, None, PROBE_S)
    precision = subject.artifact.precision if subject.artifact else None
    yield features(platform.machine(), system.flags(), exact, precision)


def cores(usable: int, there: int, quota: float | None) -> Finding:
    """quota: cores' worth of time that a container allows."""
    found = f"{system.processor()}, {usable} of {there} cores to be used"
    details = {"name": system.processor(), "cores": there, "usable": usable, "quota": quota}
    if quota is None or quota >= usable:
        return Finding(NAME, "ok", found, details=details)
    return Finding(
        NAME,
        "warning",
        f"{found}, but a container allows the time of {quota:g} only: threads will stand still",
        f"--threads {max(1, int(quota))}, or a larger quota",
        details,
    )


def busy(load: float | None, usable: int) -> Iterator[Finding]:
    """load: processes that run or want to."""
    if load is not None and load > BUSY * usable:
        yield Finding(
            NAME,
            "note",
            f"the machine is busy: load {load:g} on {usable} cores",
            "times below are too long; run this again when it is idle",
            {"load": load},
        )


def features(machine: str, flags: list[str], exact: bool, precision: str | None) -> Finding:
    """What its instructions mean. exact: sums of 8-bit products; precision: the artifact's."""
    details = {"machine": machine, "flags": flags, "sums_of_8_bit_products_are_exact": exact}
    named = ", ".join(flags) or "it does not tell its instructions"
    if not exact and precision == "w8a8":
        return Finding(
            NAME,
            "problem",
            f"it cuts off sums of 8-bit products, which a w8a8 artifact needs ({named})",
            "use a processor with VNNI, or an artifact of another recipe, such as onnx-int4",
            details,
        )
    x86 = machine.lower() in ("x86_64", "amd64")
    if x86 and flags and "avx2" not in flags:
        return Finding(
            NAME,
            "warning",
            f"it lacks AVX2 ({named}): verdicts take several times as long",
            "use a processor with AVX2; with VNNI the recipe onnx-w8a8 is the fastest",
            details,
        )
    if not exact:
        means = "runs artifacts of any precision but w8a8, int4 the fastest"
    else:
        means = "adds 8-bit products exactly, so w8a8 artifacts run"
        means += ", and are the fastest" if x86 else ""
    return Finding(NAME, "ok", f"{named}: {means}", details=details)


def _products(_: None) -> bool:
    from proguard_edge.engine.integers import products_are_exact

    return products_are_exact()
