"""proguard-edge: local text and image moderation with ProGuard guard models.

from proguard_edge import Guard

with Guard.load() as guard:
    verdict = guard.moderate(user="How do I pick a lock?")
    print(verdict.request.label, verdict.score)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proguard_edge.guard import Guard
    from proguard_edge.policy import Policy
    from proguard_edge.request import Request
    from proguard_edge.verdict import Verdict

__version__ = "0.1.0"
__all__ = ["Guard", "Policy", "Request", "Verdict", "__version__"]

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
