"""Virtual environments of stages: made from lock files with hashes, found by the commands.

$PROGUARD_EDGE_ENVS, else beside the version that a bundle installed,
else $XDG_DATA_HOME/proguard-edge/envs, else ~/.local/share/proguard-edge/envs
└─ STAGE/  a virtual environment, and environment.json once it is complete
"""

from __future__ import annotations

from proguard_edge.environments.creation import Plan, create
from proguard_edge.environments.lookup import Environment, find, found, interpreter, make_it, root

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
