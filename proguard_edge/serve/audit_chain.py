"""The audit log's chain: its keys, its macs, the one way to write a line; see `audit`."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proguard_edge.errors import AuditError

KEY_FILE = "audit.key"
HEAD_FILE = "head.json"
START = "0" * 64


@dataclass(frozen=True)
class Keys:
    """What each part of a log is signed with."""

    line: bytes
    content: bytes
    head: bytes


def head(folder: Path, keys: Keys | None = None) -> dict[str, Any]:
    """`read_head` of a log."""
    return read_head(folder / HEAD_FILE, keys)


def read_head(path: Path, keys: Keys | None = None) -> dict[str, Any]:
    """`seq` and `mac` of the last line, as noted; with `keys`, that it was noted by us.

    Raises AuditError.
    """
    try:
        raw = json.loads(path.read_text())
        seq, mac, noted = int(raw["seq"]), str(raw["mac"]), str(raw["sum"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise AuditError(f"{path}: cannot be read: {error}") from None
    if keys is not None and not hmac.compare_digest(head_sum(keys, seq, mac), noted):
        raise AuditError(f"{path}: was altered")
    return {"seq": seq, "mac": mac}


def read_keys(path: Path, create: bool = False) -> Keys:
    """The keys of a log, from 32 bytes as hex in a file of ours alone. Raises AuditError."""
    try:
        if create and not path.exists():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex(32) + "\n")
        key = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError) as error:
        raise AuditError(f"{path}: no key of an audit log: {error}") from None
    if len(key) != 32:
        raise AuditError(f"{path}: no key of an audit log: {len(key)} bytes, not 32")
    parts = ("line", "content", "head")
    labels = (f"proguard-edge audit: {part}".encode() for part in parts)
    return Keys(*(hmac.new(key, label, hashlib.sha256).digest() for label in labels))


def head_sum(keys: Keys, seq: int, mac: str) -> str:
    """The head's own mac (hex)."""
    return hmac.new(keys.head, f"{seq} {mac}".encode(), hashlib.sha256).hexdigest()


def mac_of(files: list[Path], seq: int) -> str | None:
    """The mac of the line of that number, looked for from the end."""
    for path in reversed(files):
        for raw in lines_of(path):
            line = parsed(raw, path)
            if line.get("seq") == seq:
                return str(line.get("mac"))
    return None


def written(line: dict[str, Any]) -> bytes:
    """The one way in which a line is written."""
    return json.dumps(line, ensure_ascii=True).encode() + b"\n"


def gap(seq: int, found: int) -> str:
    """What is missing where `found` stands behind `seq`, for a person."""
    if found <= seq:
        return f"line {found} stands behind line {seq}"
    missing = f"line {seq + 1} is" if found == seq + 2 else f"lines {seq + 1} to {found - 1} are"
    return f"{missing} missing"


def line_mac(key: bytes, line: dict[str, Any]) -> str:
    """HMAC-SHA256 (hex) over a line without its mac."""
    content = {name: value for name, value in line.items() if name != "mac"}
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hmac.new(key, canonical.encode(), hashlib.sha256).hexdigest()


def parsed(raw: bytes, path: Path) -> dict[str, Any]:
    """A line. Raises AuditError for what is none."""
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        line = None
    if not isinstance(line, dict):
        raise AuditError(f"{path}: holds a line that is not of an audit log")
    return line


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a file, with their ends. Raises AuditError."""
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise AuditError(f"{path}: cannot be read: {error.strerror or error}") from None


def files_of(folder: Path) -> list[Path]:
    """The files of a log in their order."""
    return sorted(folder.glob("audit-*.jsonl"), key=number_of)


def number_of(path: Path) -> int:
    """7 of `audit-000007.jsonl`."""
    digits = path.stem.removeprefix("audit-")
    return int(digits) if digits.isdecimal() else 0
