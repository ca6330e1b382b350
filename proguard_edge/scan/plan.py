"""What a scan judges, with what, and in which shards. The same plan always has the same shards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from proguard_edge.errors import InputError
from proguard_edge.guard import Guard
from proguard_edge.policy import Policy
from proguard_edge.prompt import Mode
from proguard_edge.scan.sources import Kind, Source, look

FORMAT = "proguard-edge-scan/1"
Output = Literal["jsonl", "parquet"]
# A shard is what a kill can cost a worker, and one file of the output.
MAX_SHARD_ROWS, MIN_SHARD_ROWS, SHARDS = 256, 4, 64


@dataclass(frozen=True)
class Judging:
    """All that a verdict depends on beside the row: digests, and how images are read."""

    artifact: str
    engine: str
    policy: str
    mode: Mode
    max_miss_rate: float | None
    reading: str
    device: str = "cpu"

    @classmethod
    def of(cls, guard: Guard, policy: Policy | None, mode: Mode) -> Judging:
        """How this guard judges under a policy (None: its own) in a mode."""
        return cls(
            artifact=guard.artifact.digest,
            engine=guard.engine.kind,
            policy=(policy or guard.policy).digest(),
            mode=mode,
            max_miss_rate=guard.artifact.max_miss_rate,
            reading=guard.eyes.identity,
            device=guard.engine.device,
        )

    def differences(self, other: Judging) -> list[str]:
        """What is not the same in both, in words."""
        mine, theirs = asdict(self), asdict(other)
        return [name.replace("_", " ") for name in mine if mine[name] != theirs[name]]


@dataclass(frozen=True)
class Shard:
    """Rows `first` (from 0) to `first + rows` of a source, as it was: see `Source`."""

    number: int
    path: str
    kind: Kind
    first: int
    rows: int
    size: int
    mtime_ns: int
    files: tuple[str, ...] = ()

    def to_json(self) -> str:
        """ASCII, whatever the names of files hold."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Shard:
        """The inverse of `to_json`."""
        raw = json.loads(text)
        return cls(**{**raw, "files": tuple(raw["files"])})


@dataclass(frozen=True)
class Plan:
    """The whole of a scan. Its JSON is the manifest in the output's folder."""

    judging: Judging
    sources: tuple[Source, ...]
    output: Output
    shard_rows: int

    @property
    def rows(self) -> int:
        """Of all sources."""
        return sum(source.rows for source in self.sources)

    def shards(self) -> Iterator[Shard]:
        """All of them, numbered from 0; none spans two sources."""
        number = 0
        for source in self.sources:
            for first in range(0, source.rows, self.shard_rows):
                rows = min(self.shard_rows, source.rows - first)
                files = source.files[first : first + rows]
                state = (source.size, source.mtime_ns, files)
                yield Shard(number, source.path, source.kind, first, rows, *state)
                number += 1

    def differences(self, other: Plan) -> list[str]:
        """Why `other` cannot go on with what this plan began, in words; empty where it can."""
        found = [f"another {name}" for name in self.judging.differences(other.judging)]
        if self.output != other.output:
            found.append("another --format")
        if self.shard_rows != other.shard_rows:
            found.append("another --shard-rows")
        mine = {source.path: source for source in self.sources}
        if list(mine) != [source.path for source in other.sources]:
            return [*found, "other sources, or in another order"]
        changed = [s.path for s in other.sources if s.digest != mine[s.path].digest]
        return found + [f"{path} as it was before it changed" for path in changed]

    def to_json(self) -> str:
        """Without the names of a folder's files, which may be millions: its digest has them."""
        sources = [asdict(replace(source, files=())) for source in self.sources]
        for source in sources:
            del source["files"]
        raw = {
            "format": FORMAT,
            "judging": asdict(self.judging),
            "output": self.output,
            "shard_rows": self.shard_rows,
            "sources": sources,
        }
        return json.dumps(raw, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The inverse, without the names of files. Raises InputError for anything else."""
        try:
            raw: dict[str, Any] = json.loads(text)
            if raw.pop("format") != FORMAT:
                raise InputError(f"the manifest is not of the format {FORMAT}")
            judging = Judging(**raw.pop("judging"))
            sources = tuple(Source(**source) for source in raw.pop("sources"))
            return cls(judging, sources, **raw)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError("the manifest is damaged") from None


def make_plan(
    paths: Sequence[Path],
    judging: Judging,
    output: Output,
    shard_rows: int | None = None,
    begun: Plan | None = None,
) -> Plan:
    """A plan for these sources; a file that is as it was in `begun` is not read again.

    shard_rows: None = as in `begun`, else of the number of rows. Raises InputError: a source that
    cannot be read, or is named twice, or nothing to judge at all.
    """
    known = {source.path: source for source in begun.sources} if begun else {}
    sources = tuple(look(path, known.get(str(path.absolute()))) for path in paths)
    if len({source.path for source in sources}) < len(sources):
        raise InputError("a source is named twice")
    rows = sum(source.rows for source in sources)
    if not rows:
        raise InputError(f"{', '.join(map(str, paths))}: nothing to judge{_others(sources)}")
    if shard_rows is None:
        spread = max(MIN_SHARD_ROWS, min(MAX_SHARD_ROWS, rows // SHARDS))
        shard_rows = begun.shard_rows if begun else spread
    return Plan(judging, sources, output, shard_rows)


def _others(sources: Sequence[Source]) -> str:
    found = sum(sum(source.not_looked_at.values()) for source in sources)
    return f", {found} files of other kinds" if found else ""
