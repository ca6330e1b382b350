"""Whether this process reached for the network.

Python tells of every socket that its own code uses. Sockets of native libraries are looked for in
the system's tables, again and again: one that lives for less than PERIOD_S may be missed.
"""

from __future__ import annotations

import sys
import time
from functools import cache
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from proguard_edge import system

# Making a socket reaches nobody, nor does asking for this machine's own name.
HARMLESS = {"socket.__new__", "socket.gethostname"}
ADDRESSED = {"socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"}
# urllib3, which the transformers engine imports, learns so whether there is IPv6.
OWN_IPV6 = ("::1", 0)
PERIOD_S = 0.02
TABLES = ("tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "icmp", "icmp6")


class SocketWatch:
    """Uses of sockets since it was made."""

    def __init__(self, *, always: bool = False) -> None:
        """always: look for native sockets until the process ends; else with each `take` only."""
        self._lock = Lock()
        self._told = len(_uses())
        self._before = own_sockets()
        self._known = open_sockets(self._before)
        self._native: list[str] = []
        if always:
            Thread(target=self._look_always, daemon=True).start()

    def take(self) -> tuple[str, ...]:
        """Those since the last call, one line each."""
        self._look()
        uses = _uses()
        with self._lock:
            found = (*uses[self._told :], *self._native)
            self._told, self._native = len(uses), []
        return found

    def _look_always(self) -> None:
        while True:
            time.sleep(PERIOD_S)
            self._look()

    def _look(self) -> None:
        now = open_sockets(own_sockets() - self._before)
        with self._lock:
            new = sorted(now.items() - self._known.items())
            self._native += [f"{protocol} socket open" for _, protocol in new]
            self._known |= now


@cache
def _uses() -> list[str]:
    """Grows with every use in this process from the first call on: a hook cannot be taken off."""
    found: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith("socket.") and event not in HARMLESS and _reaches(event, arguments):
            what = " ".join(repr(a) for a in arguments if not hasattr(a, "fileno"))
            found.append(f"{event} {what}"[:200])

    sys.addaudithook(hook)
    return found


def _reaches(event: str, arguments: tuple[Any, ...]) -> bool:
    if event not in ADDRESSED:
        return True
    # A socket with a path stays on this machine.
    address = arguments[1]
    return not isinstance(address, str | bytes) and (event, address) != ("socket.bind", OWN_IPV6)


def open_sockets(inodes: set[str]) -> dict[str, str]:
    """Those that reach beyond this machine: inode → protocol. Empty where the system tells none."""
    found = {}
    for table in TABLES if inodes else ():
        for line in (system.read(Path("/proc/self/net") / table) or "").splitlines()[1:]:
            if len(fields := line.split()) > 9 and fields[9] in inodes:
                found[fields[9]] = table
    return found


def own_sockets() -> set[str]:
    """Inodes of this process's sockets of all kinds."""
    found: set[str] = set()
    try:
        descriptors = list(Path("/proc/self/fd").iterdir())
    except OSError:
        return found
    for descriptor in descriptors:
        try:
            target = str(descriptor.readlink())
        except OSError:
            # The one that listed the folder.
            continue
        if target.startswith("socket:["):
            found.add(target.removeprefix("socket:[").removesuffix("]"))
    return found
