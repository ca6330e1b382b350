"""What every process of verl imports at its start, by `VERL_USE_EXTERNAL_MODULES`."""

from __future__ import annotations

import os

from proguard_edge.train.verl import cpu, fixes, parts, tvshim

tvshim.declare()
on_cpu = os.environ.get("VERL_PLATFORM") == cpu.NAME
if on_cpu:
    # Before anything else of verl: most of its modules ask for the platform when they are imported.
    cpu.register_platform()
fixes.apply()
parts.register()
if on_cpu:
    cpu.register_workers()
