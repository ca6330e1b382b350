"""Settings: everything that `proguard-edge serve` can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from proguard_edge.policy import Policy
from proguard_edge.prompt import Mode
from proguard_edge.serve.pool import Limits
from proguard_edge.serve.workers import GuardSpec


@dataclass(frozen=True)
class Settings:
    """default_policy, default_mode: for requests that name none; None = the artifact's own policy.
    policies: by name, beside that one, which is called "default". inline_policies: whether requests
    may bring their own.

    keys: who may ask, name → SHA-256 (hex) of the key; empty = everybody. audit: folder of the
    audit log, None = none. max_body_bytes: of one request; of one line in a batch stream.
    max_inputs: most texts of one list. body_s, header_s: seconds in which a client must have sent
    its request. allowed_hosts: what the Host header may say, empty = anything.
    """

    guard: GuardSpec = field(default_factory=GuardSpec)
    workers: int = 1
    decoders: int = 1
    limits: Limits = field(default_factory=Limits)
    decode_s: float = 10.0
    default_policy: Policy | None = None
    default_mode: Mode = "verdict"
    policies: dict[str, Policy] = field(default_factory=dict)
    inline_policies: bool = True
    keys: dict[str, str] = field(default_factory=dict)
    audit: Path | None = None
    audit_key: Path | None = None
    max_body_bytes: int = 32 << 20
    max_inputs: int = 256
    body_s: float = 30.0
    header_s: float = 10.0
    allowed_hosts: tuple[str, ...] = ()
    max_connections: int = 1024
