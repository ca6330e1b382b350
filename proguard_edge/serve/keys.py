"""API keys: made once, shown once, kept as digests, compared in constant time.

A key file has a line `NAME SHA256` for each key; a line that begins with # is a comment.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from proguard_edge.errors import InputError

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def digest(key: str) -> str:
    """SHA-256 (hex). Keys hold 256 random bits, so no slow hash is needed."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def read_keys(path: Path) -> dict[str, str]:
    """Name → digest. Raises InputError when the file is unreadable, malformed or empty."""
    keys: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read: {reason}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, hashed = line.strip().partition(" ")
        if not _NAME.fullmatch(name) or not _DIGEST.fullmatch(hashed.strip()) or name in keys:
            raise InputError(
                f"{path}:{number}: not a line `NAME SHA256` with a name of its own; "
                "`proguard-edge api-key NAME --file FILE` writes one"
            )
        keys[name] = hashed.strip()
    if not keys:
        raise InputError(f"{path}: holds no key; `proguard-edge api-key NAME --file FILE` adds one")
    return keys


def new_key(path: Path, name: str) -> str:
    """Add a key to the file and return it; it is not stored. Raises InputError."""
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r:.80}: a name has letters, digits, dots, dashes; at most 64")
    if path.exists() and path.stat().st_size and name in read_keys(path):
        raise InputError(f"{path}: has a key {name!r} already; remove its line first")
    key = "pge-" + secrets.token_urlsafe(32)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:
            file.write(f"{name} {digest(key)}\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    return key


def owner(keys: dict[str, str], presented: str) -> str | None:
    """Whose key it is, or None. Every key is compared, whichever matches."""
    hashed, found = digest(presented), None
    for name, known in keys.items():
        if hmac.compare_digest(hashed, known):
            found = name
    return found
