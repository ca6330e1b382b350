"""proguard-edge: local text and image moderation with ProGuard guard models.

from proguard_edge import Guard

with Guard.load() as guard:
    verdict = guard.moderate(user="How do I pick a lock?")
    print(verdict.request.label, verdict.score)
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proguard_edge.guard import Guard
    from proguard_edge.policy import Policy
    from proguard_edge.request import Request
    from proguard_edge.verdict import Verdict

__version__ = "0.1.0"
__all__ = ["Guard", "Policy", "Request", "Verdict", "__version__"]

# From 1.29 on onnxruntime tells its maker of every process and session, unless this stands in the
# environment when it is imported. Where it was, it can only be told to send less.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
if "onnxruntime" in sys.modules:
    sys.modules["onnxruntime"].disable_telemetry_events()

# Hugging Face's libraries read it when they are imported. Nothing here asks a hub, with or without
# it: paths are local. A program around us that needs the hub sets these to 0 before.
for _name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ.setdefault(_name, "1")

_HOME = {
    "Guard": "proguard_edge.guard",
    "Policy": "proguard_edge.policy",
    "Request": "proguard_edge.request",
    "Verdict": "proguard_edge.verdict",
}


def __getattr__(name: str) -> Any:
    # The engine and its libraries load with the first use of Guard, not with the package.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
