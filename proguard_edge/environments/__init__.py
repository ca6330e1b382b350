"""Virtual environments of stages: made from lock files with hashes, found by the commands.

$PROGUARD_EDGE_ENVS, else beside the version that a bundle installed,
else $XDG_DATA_HOME/proguard-edge/envs, else ~/.local/share/proguard-edge/envs
└─ STAGE → a virtual environment, with environment.json once it is complete
"""

from __future__ import annotations

from proguard_edge.environments.creation import Plan, create
from proguard_edge.environments.lookup import find, found, interpreter, root
from proguard_edge.environments.record import Environment, make_it

__all__ = [
    "Environment",
    "Plan",
    "create",
    "find",
    "found",
    "interpreter",
    "make_it",
    "root",
]
