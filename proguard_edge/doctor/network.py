"""The network: nothing here used it, and what this machine could reach."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from proguard_edge import system
from proguard_edge.doctor.finding import Finding, Subject

NAME = "network"
REDIRECTING = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "PROGUARD_EDGE_API_KEY")
# Where onnxruntime keeps what it will send, in a cache folder.
STORE = Path("Microsoft/DeveloperTools/.onnxruntime")
LOOK_S = 60.0
ROOT = Path("/")
UP = 1


def check(subject: Subject) -> Iterator[Finding]:
    """Last of all: it tells of every check before it."""
    uses = [*subject.helper.sockets(), *subject.watch.take()]
    yield silent(uses, subject.helper.deaths)
    yield telemetry(subject.helper.run(collecting, None, LOOK_S), left(dict(os.environ)))
    yield environment(dict(os.environ))
    yield routes(interfaces(), default_routes(), subject.expect_offline)


def silent(uses: list[str], deaths: int) -> Finding:
    """uses: what was done with sockets. deaths: processes that can no longer be asked."""
    details = {"uses": uses, "processes_not_asked": deaths}
    if uses:
        remedy = "cut this machine off, and find out which package reached out"
        return Finding(NAME, "problem", f"a socket was used: {'; '.join(uses)}", remedy, details)
    if deaths:
        remedy = "mend what made it die, then run this again"
        found = "nothing used a socket, as far as known: a process died and cannot be asked"
        return Finding(NAME, "warning", found, remedy, details)
    return Finding(NAME, "ok", "nothing used a socket while all of this ran", details=details)


def telemetry(stores: list[str], others: Path | None) -> Finding:
    """stores: files that onnxruntime holds open to send them. others: such a folder, closed."""
    details = {"open": stores, "left": str(others) if others else None}
    if stores:
        remedy = "set ORT_DISABLE_TELEMETRY=1 for this program, and cut the machine off until then"
        found = f"onnxruntime collects what it will send to its maker: {stores[0]}"
        return Finding(NAME, "problem", found, remedy, details)
    if others is not None:
        remedy = "remove it; ORT_DISABLE_TELEMETRY=1 keeps other programs from it"
        found = f"another program let onnxruntime collect what it sends to its maker: {others}"
        return Finding(NAME, "note", found, remedy, details)
    return Finding(NAME, "ok", "onnxruntime's telemetry is off", details=details)


def collecting(_: None) -> list[str]:
    """Files of telemetry that onnxruntime holds open; runs in the helper."""
    import onnxruntime  # noqa: F401 - it begins to collect when it is imported

    found = []
    for descriptor in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):
            target = descriptor.readlink()
            if STORE.name in target.parts:
                found.append(str(target))
    return sorted(found)


def left(variables: dict[str, str]) -> Path | None:
    """A folder of telemetry in this user's cache."""
    with suppress(RuntimeError):
        base = variables.get("XDG_CACHE_HOME")
        folder = (Path(base) if base else Path.home() / ".cache") / STORE
        if folder.is_dir():
            return folder
    return None


def environment(variables: dict[str, str]) -> Finding:
    """Variables that send programs elsewhere."""
    found = [name for name in sorted(variables) if name.upper() in REDIRECTING and variables[name]]
    # A proxy's address may hold a password: no values here.
    details = {"set": found, "HF_HUB_OFFLINE": variables.get("HF_HUB_OFFLINE")}
    if found:
        remedy = "nothing to do: judging opens no connection, but with the engine `remote`"
        return Finding(NAME, "note", f"{', '.join(found)} set", remedy, details)
    text = "no proxy is set; the runtime calls no hub"
    return Finding(NAME, "ok", text, details=details)


def routes(names: list[str] | None, ways: list[str], expect_offline: bool) -> Finding:
    """names: interfaces in use, besides loopback; None where the system tells none. ways: those of
    them with a default route."""
    details = {"interfaces": names, "default_routes": ways}
    if names is None:
        remedy = "look at its interfaces yourself"
        return Finding(NAME, "note", "this system does not tell its routes", remedy, details)
    if ways:
        found = f"this machine has a way out: a default route over {', '.join(ways)}"
    elif names:
        found = f"no default route, but in use: {', '.join(names)}"
    else:
        return Finding(NAME, "ok", "no interface but loopback is in use", details=details)
    if not expect_offline:
        remedy = "none is needed: the runtime works without; --expect-offline makes it a warning"
        return Finding(NAME, "note", found, remedy, details)
    return Finding(NAME, "warning", found, "take the route or the cable away", details)


def interfaces(root: Path = ROOT) -> list[str] | None:
    """Those with a route or an address, besides loopback."""
    # Not /sys/class/net: a container may see its host's there.
    if not (root / "proc/net/dev").exists():
        return None
    found = {fields[0] for fields in _rows(root, "route")}
    found |= {fields[-1] for fields in (*_rows(root, "ipv6_route"), *_rows(root, "if_inet6"))}
    return sorted(found - {"lo", "Iface"})


def default_routes(root: Path = ROOT) -> list[str]:
    """Interfaces with a default route, IPv4 or IPv6."""
    found = set()
    for name, target, _, flags, _, _, _, mask, *_ in _rows(root, "route"):
        if target == mask == "00000000" and int(flags, 16) & UP:
            found.add(name)
    for target, length, *_, name in _rows(root, "ipv6_route"):
        # Of what cannot be reached the kernel keeps a default route over loopback.
        if (target, length, name != "lo") == ("0" * 32, "00", True):
            found.add(name)
    return sorted(found)


def _rows(root: Path, table: str) -> list[list[str]]:
    """Fields of the lines of one of the kernel's tables."""
    return [line.split() for line in (system.read(root / "proc/net" / table) or "").splitlines()]
