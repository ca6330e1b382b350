"""The quality gate: the checkpoint and an export of it judge the same labelled rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from proguard_edge.artifact import Artifact
from proguard_edge.artifact.format import PARTS
from proguard_edge.bench.verdicts import kept_verdicts
from proguard_edge.errors import QualityError
from proguard_edge.export.extras import need
from proguard_edge.export.quality import Change, Limits, Side, compare, failures, moves
from proguard_edge.export.quality_report import markdown, plot
from proguard_edge.export.stages import Source
from proguard_edge.guard import Guard
from proguard_edge.train.rows import Row

Report = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """A quality record with what its page and plot show."""

    record: dict[str, Any]
    changes: dict[str, list[Change]]
    excerpts: dict[str, str]

    @property
    def failures(self) -> list[str]:
        """What broke the limits, one line each."""
        lines: list[str] = self.record["gate"]["failures"]
        return lines

    def write(self, folder: Path) -> None:
        """`quality.json`, `quality.md` and `quality.png`."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.record, indent=1, ensure_ascii=False) + "\n"
        (folder / "quality.json").write_text(text, encoding="utf-8")
        (folder / "quality.md").write_text(markdown(self.record, self.excerpts), encoding="utf-8")
        plot(self.changes, folder / "quality.png")


@dataclass(frozen=True)
class Gate:
    """Rows to judge and what may change. reference: another artifact to compare with than the
    checkpoint itself in float32; threads: 0 = all cores."""

    rows: Sequence[Row]
    limits: Limits
    reference: Path | None = None
    threads: int = 0

    def measure(self, artifact: Path, source: Source, work: Path, report: Report) -> Measured:
        """Judge on both sides and compare; verdicts are kept in `work`, and judged once.

        Raises QualityError when there is nothing to compare, ArtifactError, EngineError.
        """
        need("matplotlib")
        rows = [r for r in self.rows if r.modality in source.contents.modalities]
        if not rows:
            raise QualityError("the gate has no row that the artifact reads: give other --data")
        before = self.reference or _reference(source, work)
        sides = [self._side(folder, rows, work, report) for folder in (before, artifact)]
        return judge(rows, sides[0], sides[1], self.limits)

    def _side(self, folder: Path, rows: Sequence[Row], work: Path, report: Report) -> Side:
        found = Artifact.open(folder)
        if found.category_thresholds:
            # Scores moved by a threshold no longer say what the model's logits were.
            raise QualityError(f"{folder}: has thresholds of categories; compare one without")
        answers = verdicts(folder, rows, work, report, self.threads)
        return Side(f"{found.name}, {found.engine} {found.precision}", answers, found.calibration)


def judge(rows: Sequence[Row], before: Side, after: Side, limits: Limits) -> Measured:
    """Compare two sides and say whether the limits hold. Raises QualityError, see `compare`."""
    record = compare(rows, before, after)
    broken = failures(record, limits)
    record["gate"] = {"passed": not broken, "failures": broken, "limits": asdict(limits)}
    return Measured(
        record,
        {part: moves(rows, before, after, part) for part in PARTS},
        {row.id: row.user or row.response or f"[{row.modality}]" for row in rows},
    )


def verdicts(
    folder: Path, rows: Sequence[Row], work: Path, report: Report, threads: int = 0
) -> dict[str, dict[str, Any] | None]:
    """Verdicts by row id, None for an error; kept in `work`, where a stopped run goes on."""
    every = max(1, len(rows) // 10)
    with Guard.load(folder, threads=threads, device="cpu", ocr=False) as guard:

        def tell(number: int) -> None:
            if number % every == 0 or number == len(rows):
                report(f"judged {number} of {len(rows)} rows, {guard.artifact.engine}")

        lines = kept_verdicts(guard, rows, work, tell)
    return {name: line.get("verdict") for name, line in lines.items()}


def _reference(source: Source, work: Path) -> Path:
    """The checkpoint itself as an artifact, its weights linked."""
    from proguard_edge.export.checkpoint import Checkpoint
    from proguard_edge.export.transformers_artifact import export_transformers

    contents = source.contents.digest()[:8]
    folder = work / f"reference-{Checkpoint(source.checkpoint).digest()[:16]}-{contents}"
    if not (folder / "artifact.json").is_file():
        export_transformers(source.checkpoint, folder, source.contents)
    return folder
