"""Whether an audit log holds together: every edited, missing or misplaced line; see `audit`."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from proguard_edge.errors import AuditError
from proguard_edge.serve.audit_chain import (
    KEY_FILE,
    START,
    files_of,
    gap,
    head,
    line_mac,
    lines_of,
    parsed,
    read_keys,
    written,
)


def verify(
    folder: Path, key_file: Path | None = None, known: dict[str, Any] | None = None
) -> Iterator[str]:
    """Every fault of a log, one line for a person each; none means that it holds together.

    known: a head that was noted earlier, `{"seq", "mac"}`: that line must still be there. A server
    may be writing. Raises AuditError when there is no log, or no key, to verify.
    """
    if not files_of(folder):
        raise AuditError(f"{folder}: no audit-*.jsonl in it")
    keys = read_keys(key_file or folder / KEY_FILE)
    heads: list[dict[str, Any]] = [known] if known is not None else []
    try:
        # Before the lines: those that are written meanwhile lie behind it.
        heads.append(head(folder, keys))
    except AuditError as error:
        yield str(error)
    seq, mac = 0, START
    for path in files_of(folder):
        for number, raw in enumerate(lines_of(path), 1):
            where = f"{path.name}:{number}"
            try:
                line = parsed(raw, path)
                found, stated = int(line["seq"]), str(line["mac"])
            except (AuditError, KeyError, TypeError, ValueError, OverflowError):
                yield f"{where}: not a line of an audit log"
                seq, mac = seq + 1, ""
                continue
            if not hmac.compare_digest(line_mac(keys.line, line), stated) or written(line) != raw:
                yield f"{where}: line {found} was altered"
            elif found != seq + 1:
                yield f"{where}: {gap(seq, found)}"
            elif mac and not hmac.compare_digest(str(line.get("prev")), mac):
                yield f"{where}: line {found} does not follow the one before it"
            seq, mac = found, stated
            for noted in heads:
                if noted["seq"] == found and noted["mac"] != stated:
                    yield f"{where}: line {found} is not the one that was noted"
    for noted in heads:
        if noted["seq"] > seq:
            yield f"{gap(seq, noted['seq'] + 1)} at the end"
