"""Audit: an append-only log of what was judged, in which an edited or missing line shows.

A folder of `audit-000001.jsonl`, `audit-000002.jsonl` … Each line is JSON and carries `seq`, from
1 on across files, `prev` (the `mac` of the line before) and `mac`: HMAC-SHA256 over the line
without it. `head.json` says, once a second and with a mac of its own, which line is the last.
Whoever can write the files but not read the key in `audit.key` can only put back an older state of
all of them; whoever has both can write another log. So keep the key elsewhere (`key_file`) and note
the head now and then: `audit verify --head` compares it.

Content is not stored: a part of a request appears as HMAC-SHA256, by which the key's owner finds it
again and nobody else guesses a short text. Lines, content and head have keys of their own, derived
from the one: what a client sends never gets the mac of a line.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import secrets
import threading
import time
from pathlib import Path
from typing import IO, Any

from proguard_edge.errors import AuditError
from proguard_edge.serve.audit_chain import (
    HEAD_FILE,
    KEY_FILE,
    START,
    files_of,
    gap,
    head,
    head_sum,
    line_mac,
    mac_of,
    number_of,
    parsed,
    read_keys,
    written,
)

MAX_FILE_BYTES = 64 << 20


class AuditLog:
    """Appends lines, each whole or not at all. One process may hold a folder open."""

    def __init__(
        self, folder: Path, key_file: Path | None = None, max_file_bytes: int = MAX_FILE_BYTES
    ) -> None:
        """Open a folder, new or not; a line that was cut off by a crash is cut out.

        Raises AuditError when it cannot be written, is in use, or does not hold together.
        """
        self.folder, self._max = folder, max_file_bytes
        # `sync` may run in another thread than `append`; the disk is waited for outside of it.
        self._turn = threading.Lock()
        self._file: IO[bytes] | None = None
        self._lock: IO[bytes] | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = _lock(folder)
            self._keys = read_keys(key_file or folder / KEY_FILE, create=True)
            self._number = max(map(number_of, files_of(folder)), default=1)
            self._open()
            self.seq, self._mac = self._last()
            self._check_head()
            self.sync()
        except OSError as error:
            self._free()
            raise AuditError(f"{folder}: cannot be written: {error.strerror or error}") from None
        except AuditError:
            self._free()
            raise

    def digest(self, content: str | bytes) -> str:
        """HMAC-SHA256 (hex) by which the log names a text or a picture."""
        raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        return hmac.new(self._keys.content, raw, hashlib.sha256).hexdigest()

    def append(self, entry: dict[str, Any]) -> int:
        """Write one line; its number. Raises AuditError: then nothing of it was written."""
        with self._turn:
            return self._append(entry)

    def _append(self, entry: dict[str, Any]) -> int:
        if self._lock is None:
            raise AuditError("the audit log is closed")
        seq = self.seq + 1
        line = {"seq": seq, "time": round(time.time(), 3), **entry, "prev": self._mac}
        line["mac"] = mac = line_mac(self._keys.line, line)
        raw = written(line)
        try:
            self._rotate(len(raw))
            self._write(raw)
        except OSError as error:
            raise AuditError(
                f"the audit log cannot be written: {error.strerror or error}; nothing is answered "
                "until it can"
            ) from None
        self.seq, self._mac = seq, mac
        return seq

    def sync(self) -> None:
        """Bring what was appended to the disk, and note the head. Raises AuditError."""
        try:
            with self._turn:
                seq, mac = self.seq, self._mac
                ours = os.dup(self._file.fileno()) if self._file is not None else None
            if ours is not None:
                try:
                    os.fsync(ours)
                finally:
                    os.close(ours)
            self._note_head(seq, mac)
        except OSError as error:
            raise AuditError(
                f"the audit log cannot be written: {error.strerror or error}"
            ) from None

    def close(self) -> None:
        """Sync, and free the folder."""
        try:
            self.sync()
        finally:
            self._free()

    def _free(self) -> None:
        for file in (self._file, self._lock):
            if file is not None:
                file.close()
        self._file = self._lock = None

    def _write(self, raw: bytes) -> None:
        if self._file is None:
            self._open()
        assert self._file is not None
        end = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(raw) != len(raw):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            # A full disk takes the beginning of a line: what stands there must not stay.
            self._file.truncate(end)
            raise

    def _rotate(self, more: int) -> None:
        if self._file is None or self._file.seek(0, os.SEEK_END) + more <= self._max:
            return
        if self._file.tell() == 0:
            return
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        self._number += 1
        self._open()

    def _open(self) -> None:
        path = self.folder / f"audit-{self._number:06}.jsonl"
        # Unbuffered: a line that was answered is with the system, whatever happens to us.
        self._file = path.open("ab+", buffering=0)
        path.chmod(0o600)

    def _last(self) -> tuple[int, str]:
        """Number and mac of the last whole line; a beginning of one behind it is cut off."""
        assert self._file is not None
        self._file.truncate(_whole(self._file))
        for path in reversed(files_of(self.folder)):
            last = b""
            with path.open("rb") as file:
                for last in file:  # noqa: B007
                    pass
            if last:
                line = parsed(last, path)
                if not hmac.compare_digest(line_mac(self._keys.line, line), str(line.get("mac"))):
                    raise AuditError(
                        f"{path}: the last line was altered, or the key is another; look at "
                        f"`proguard-edge audit verify {self.folder}`"
                    )
                return int(line["seq"]), str(line["mac"])
        return 0, START

    def _check_head(self) -> None:
        """That nothing is gone which the head knows of: a restart must not hide it."""
        files = files_of(self.folder)
        if not (self.folder / HEAD_FILE).exists() and self.seq == 0:
            return
        fault = None
        try:
            noted = head(self.folder, self._keys)
        except AuditError as error:
            fault = str(error)
        else:
            if noted["seq"] > self.seq:
                fault = f"{gap(self.seq, noted['seq'] + 1)} at the end"
            elif noted["seq"] and mac_of(files, noted["seq"]) != noted["mac"]:
                fault = f"line {noted['seq']} is not the one that {HEAD_FILE} names"
        if fault is not None:
            raise AuditError(
                f"{self.folder}: {fault}; keep this folder for whoever examines it, and begin a "
                "new one"
            )

    def _note_head(self, seq: int, mac: str) -> None:
        temporary = self.folder / f".{HEAD_FILE}.{secrets.token_hex(4)}"
        noted = {"seq": seq, "mac": mac, "sum": head_sum(self._keys, seq, mac)}
        try:
            with temporary.open("w") as file:
                file.write(json.dumps(noted) + "\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.folder / HEAD_FILE)
        finally:
            temporary.unlink(missing_ok=True)


def _whole(file: IO[bytes]) -> int:
    """Bytes up to the end of the last whole line."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 20)))
    tail = file.read()
    return size - (len(tail) - (tail.rfind(b"\n") + 1))


def _lock(folder: Path) -> IO[bytes]:
    file = (folder / ".lock").open("ab")
    try:
        import fcntl
    except ImportError:  # not on Windows
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise AuditError(f"{folder}: another server writes this audit log") from None
    return file
