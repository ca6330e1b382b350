"""What a teacher said of the rows: verdict files, and the labels that a student is taught.

A verdict file is the output of `moderate-batch` by any engine in any mode, so a teacher may reason
for hundreds of tokens, or run on another machine: its label, its category and its score of every
row are what teaches. A line with an error decided nothing, and teaches nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from proguard_edge.artifact import Artifact, Calibration
from proguard_edge.artifact.format import file_digest
from proguard_edge.errors import InputError, PolicyError
from proguard_edge.policy import Policy
from proguard_edge.prompt import PromptEncoder
from proguard_edge.train.rows import Row, json_lines
from proguard_edge.verdict import Judgement, Verdict

UNKNOWN = math.nan
Trust = Literal["teacher", "rows"]


@dataclass(frozen=True)
class Said:
    """A teacher's verdict on one row. category: an id of its policy, or a name of its own.

    differences: logit difference unsafe − safe of the request, and of the response if there is one.
    """

    request: str
    response: str | None
    category: str | None
    category_name: str | None
    in_policy: bool
    differences: tuple[float, ...]
    evaluated: frozenset[str]


@dataclass(frozen=True)
class VerdictFile:
    """The verdicts by row id. errors: lines without a verdict. digest: sha256 of the file (hex)."""

    path: Path
    digest: str
    said: dict[str, Said]
    errors: int
    artifacts: tuple[str, ...]
    modes: tuple[str, ...]


@dataclass(frozen=True)
class Lesson:
    """A row with the labels to teach, and the teacher's differences, empty without a verdict."""

    row: Row
    differences: tuple[float, ...] = ()


@dataclass
class Counts:
    """What became of the rows.

    unusable: no label, or nothing to read. unseen: a picture that the teacher had not looked at.
    """

    taught: int = 0
    unusable: int = 0
    without_verdict: int = 0
    unseen: int = 0
    too_long: int = 0
    errors_in_file: int = 0


def read_verdicts(path: Path, artifact: Artifact | None = None) -> VerdictFile:
    """Read `moderate-batch`'s output, gzipped or not.

    artifact: the teacher's, whose calibration is then taken out of the scores; without it they are
    taken as they are. Raises InputError: not such a file, another artifact's verdicts, or two
    different ones on rows of the same id.
    """
    calibration = artifact.calibration if artifact is not None else {}
    said: dict[str, Said] = {}
    artifacts, modes, errors = set(), set(), 0
    try:
        for number, raw in json_lines(path):
            where = f"{path}, line {number}"
            if raw.get("verdict") is None and isinstance(raw.get("error"), dict):
                errors += 1
                continue
            name, verdict = _verdict(raw, where)
            if artifact is not None and verdict.artifact != artifact.digest:
                raise InputError(f"{where}: a verdict of another artifact than {artifact.folder}")
            found = _said(verdict, calibration)
            if said.setdefault(name, found) != found:
                raise InputError(f"{where}: another verdict on {name!r}: give every row its own id")
            artifacts.add(verdict.artifact)
            modes.add(verdict.mode)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read: {reason}") from None
    if not said:
        raise InputError(f"{path}: no verdicts in it, {errors} errors")
    order = tuple(sorted(artifacts)), tuple(sorted(modes))
    return VerdictFile(path, file_digest(path), said, errors, *order)


def _verdict(raw: Mapping[str, Any], where: str) -> tuple[str, Verdict]:
    try:
        verdict = Verdict.from_dict(raw["verdict"])
        for part in (verdict.request, verdict.response):
            if part is not None and not _sound(part):
                raise ValueError(part)
        return str(raw["id"]), verdict
    except (KeyError, TypeError, AttributeError, ValueError):
        raise InputError(f"{where}: not an output line of moderate-batch") from None


def _sound(part: Judgement) -> bool:
    numeric = isinstance(part.score, int | float) and 0 <= part.score <= 1
    return numeric and part.label == ("unsafe" if part.score >= 0.5 else "safe")


def _said(verdict: Verdict, calibration: Mapping[str, Calibration]) -> Said:
    parts = {"request": verdict.request, "response": verdict.response}
    differences = tuple(
        calibration.get(name, Calibration()).logit(part.score)
        for name, part in parts.items()
        if part is not None
    )
    risk = verdict.category if verdict.unsafe else None
    return Said(
        verdict.request.label,
        verdict.response.label if verdict.response else None,
        (risk.id or risk.name) if risk else None,
        risk.name if risk else None,
        bool(risk and risk.in_policy),
        differences,
        frozenset(verdict.evaluated),
    )


def lessons(
    rows: Sequence[Row],
    verdicts: VerdictFile | None,
    policy: Policy,
    trust: Trust,
    *,
    ids_only: bool = False,
) -> tuple[list[Lesson], Counts]:
    """The rows as they are taught; without a verdict file their own labels are all there is.

    With one, rows that it does not answer are left out and counted. trust: whose label is taught
    where both have one, the row's or the teacher's. ids_only: names of the teacher's own are not
    taught. Raises InputError for verdicts on other rows, PolicyError for those by another policy.
    """
    if verdicts is None:
        return [Lesson(row) for row in rows], Counts(taught=len(rows))
    found, counts = [], Counts(errors_in_file=verdicts.errors)
    for row in rows:
        said = verdicts.said.get(row.id)
        if said is None:
            counts.without_verdict += 1
            continue
        _check(row, said, verdicts.path, policy)
        if row.image is not None and not said.evaluated & {"image", "image_text"}:
            counts.unseen += 1
            continue
        found.append(Lesson(_labelled(row, said, trust, ids_only), said.differences))
    if not found:
        raise InputError(f"{verdicts.path}: answers none of the rows; it was made of other rows")
    counts.taught = len(found)
    return found, counts


def _check(row: Row, said: Said, path: Path, policy: Policy) -> None:
    """That the verdict may be about this row, and speaks of this policy's categories."""
    seen = {"user_text": bool(row.user and row.user.strip()), "response": row.response is not None}
    looked = said.evaluated & {"image", "image_text"}
    fits = seen == {name: name in said.evaluated for name in seen}
    if not fits or (row.image is None and looked):
        raise InputError(f"{path}: the verdict on {row.id!r} is about another row of that id")
    if said.in_policy and said.category is not None:
        known = said.category in policy.ids
        if not known or policy.get(said.category).name != said.category_name:
            raise PolicyError(
                f"{path}: {said.category} {said.category_name!r} is not in the policy "
                f"{policy.name}; give the one that the teacher judged by"
            )


def _labelled(row: Row, said: Said, trust: Trust, ids_only: bool) -> Row:
    request, response, category = said.request, said.response, said.category
    if ids_only and not said.in_policy:
        category = None
    if trust == "rows":
        request = row.request_label or request
        response = row.response_label or response
        category = row.category or category
    unsafe = "unsafe" in (request, response)
    return replace(
        row,
        request_label=request,
        response_label=response,
        category=category if unsafe else None,
    )


def read_whole(lesson: Lesson, encoder: PromptEncoder, request: int, response: int) -> bool:
    """Whether the student reads all that the teacher's labels are about.

    A teacher reads a long text window by window, and its "unsafe" may belong to any of them; the
    student is trained on the first, of `request` and `response` tokens, for which it may be wrong.
    """
    row = lesson.row
    parts = ((row.user, request), (row.response, response))
    return not any(
        difference > 0 and text and encoder.count(text) > limit
        for difference, (text, limit) in zip(lesson.differences, parts, strict=False)
    )
