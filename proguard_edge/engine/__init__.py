"""Engines: token ids and pixel patches in, logits out. They know no policy and no label."""

from __future__ import annotations

from proguard_edge.engine.base import Engine, EngineSequence, Timings
from proguard_edge.engine.load import DEVICES, ENGINES, Server, load_engine

__all__ = ["DEVICES", "ENGINES", "Engine", "EngineSequence", "Server", "Timings", "load_engine"]
