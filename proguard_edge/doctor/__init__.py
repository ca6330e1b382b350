"""Whether this machine can judge with an artifact, and what to do where it cannot.

A check is a function of a Subject that gives findings; `examine` runs them all. What may crash
(onnxruntime, a model that is larger than the memory) runs in a process of its own.
"""

from __future__ import annotations

from proguard_edge.doctor.examine import Diagnosis, diagnose
from proguard_edge.doctor.finding import STATES, Finding, State

__all__ = ["STATES", "Diagnosis", "Finding", "State", "diagnose"]
