"""Verdict files: what they teach, and what they never do."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proguard_edge.artifact import Artifact, Calibration
from proguard_edge.errors import InputError, PolicyError
from proguard_edge.export.distill_data import lessons, read_verdicts
from proguard_edge.policy import Policy
from proguard_edge.train.rows import Row
from proguard_edge.verdict import Judgement, Risk, Verdict

POLICY = Policy.default()
DIGEST = "d" * 64


def row(name: str, **fields: Any) -> Row:
    fields = {"user": "hi", **fields}
    return Row.from_dict({"id": name, "source": "s", "licence": "MIT", **fields})


def said(name: str, score: float, response: float | None = None, **changes: Any) -> dict[str, Any]:
    """A line of `moderate-batch`."""
    unsafe = max(score, response or 0) >= 0.5
    verdict = Verdict(
        Judgement("unsafe" if score >= 0.5 else "safe", score),
        None if response is None else Judgement("unsafe" if response >= 0.5 else "safe", response),
        Risk("C8S1", POLICY.get("C8S1").name, True, 0.9) if unsafe else None,
        None,
        ("user_text",) if response is None else ("user_text", "response"),
        "reason",
        DIGEST,
    )
    return {"id": name, "key": "k", "verdict": replace(verdict, **changes).to_dict()}


def about(request: object) -> dict[str, Any]:
    """A line whose request is judged so."""
    line = said("a", 0.9)
    return {**line, "verdict": {**line["verdict"], "request": request}}


def error(name: str) -> dict[str, Any]:
    return {"id": name, "key": "k", "error": {"type": "AnswerError", "message": "no"}}


def written(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "verdicts.jsonl"


def test_labels_category_and_logit_differences_are_read(file: Path) -> None:
    found = read_verdicts(written(file, said("a", 0.8, 0.1), said("b", 0.25)))
    assert found.said["a"].differences == pytest.approx([math.log(4), -math.log(9)])
    assert (found.said["a"].request, found.said["a"].response) == ("unsafe", "safe")
    assert (found.said["a"].category, found.said["b"].category) == ("C8S1", None)
    assert (found.artifacts, found.modes) == ((DIGEST,), ("reason",))


def test_an_error_never_teaches_safe_but_is_counted(file: Path) -> None:
    verdicts = read_verdicts(written(file, error("a"), said("b", 0.9)))
    assert verdicts.errors == 1
    taught, counts = lessons([row("a"), row("b"), row("c")], verdicts, POLICY, "teacher")
    assert [x.row.id for x in taught] == ["b"]
    assert (counts.taught, counts.without_verdict, counts.errors_in_file) == (1, 2, 1)


def test_a_file_of_errors_alone_teaches_nothing(file: Path) -> None:
    with pytest.raises(InputError, match="no verdicts in it, 1 errors"):
        read_verdicts(written(file, error("a")))


def test_the_artifacts_calibration_is_taken_out_of_the_scores(file: Path, tiny_hf: Path) -> None:
    calibration = Calibration(bias=0.7, temperature=2.5)
    artifact = replace(Artifact.open(tiny_hf), digest=DIGEST, calibration={"request": calibration})
    written(file, said("a", calibration.score(1.9), 0.5))
    assert read_verdicts(file, artifact).said["a"].differences == pytest.approx([1.9, 0.0])
    with pytest.raises(InputError, match="line 1: a verdict of another artifact"):
        read_verdicts(file, replace(artifact, digest="e" * 64))


def test_a_score_without_a_logit_is_drawn_in(file: Path) -> None:
    found = read_verdicts(written(file, said("a", 1.0), said("b", 0.0)))
    assert 27 < found.said["a"].differences[0] < 28
    assert -28 < found.said["b"].differences[0] < -27


@pytest.mark.parametrize(
    "line",
    [
        {"id": "a", "score": 1},
        {"id": "a", "verdict": {"request": {"label": "safe", "score": 0.1}}},
        # What is neither a verdict nor an error is not "safe".
        {"id": "a", "verdict": None},
        about(None),
        about({"label": "safe", "score": 0.9}),
        about({"label": "unsafe", "score": 7}),
        about({"label": "unsafe", "score": "1"}),
    ],
)
def test_lines_of_another_kind_are_an_error_that_names_the_line(
    file: Path, line: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=r"verdicts\.jsonl, line 2: not an output line"):
        read_verdicts(written(file, said("z", 0.1), line))


def test_two_verdicts_on_one_id_must_agree(file: Path) -> None:
    assert len(read_verdicts(written(file, said("a", 0.9), said("a", 0.9))).said) == 1
    with pytest.raises(InputError, match="another verdict on 'a'"):
        read_verdicts(written(file, said("a", 0.9), said("a", 0.2)))


def test_a_file_that_cannot_be_read_is_an_error(file: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_verdicts(file)
    file.with_suffix(".gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(InputError, match="cannot be read"):
        read_verdicts(file.with_suffix(".gz"))


def test_verdicts_on_other_rows_are_an_error(file: Path) -> None:
    verdicts = read_verdicts(written(file, said("a", 0.9)))
    with pytest.raises(InputError, match="answers none of the rows"):
        lessons([row("b")], verdicts, POLICY, "teacher")
    answered = row("a", response="yes")
    with pytest.raises(InputError, match="the verdict on 'a' is about another row"):
        lessons([answered], verdicts, POLICY, "teacher")


def test_a_picture_that_the_teacher_did_not_see_is_left_out(file: Path) -> None:
    seen = ("user_text", "image")
    verdicts = read_verdicts(written(file, said("a", 0.1), said("b", 0.1, evaluated=seen)))
    rows = [row("a", image="a.png"), row("b", image="b.png")]
    taught, counts = lessons(rows, verdicts, POLICY, "teacher")
    assert [x.row.id for x in taught] == ["b"]
    assert counts.unseen == 1


def test_a_category_of_another_policy_is_an_error(file: Path) -> None:
    other = Risk("C8S1", "Parking", True, 1.0)
    verdicts = read_verdicts(written(file, said("a", 0.9, category=other)))
    with pytest.raises(PolicyError, match="'Parking' is not in the policy"):
        lessons([row("a")], verdicts, POLICY, "teacher")


def test_names_of_the_teachers_own_are_taught_unless_policies_change(file: Path) -> None:
    verdicts = read_verdicts(
        written(file, said("a", 0.9, category=Risk(None, "Bad Manners", False, 1.0)))
    )
    (lesson,), _ = lessons([row("a")], verdicts, POLICY, "teacher")
    assert lesson.row.category == "Bad Manners"
    (lesson,), _ = lessons([row("a")], verdicts, POLICY, "teacher", ids_only=True)
    assert (lesson.row.request_label, lesson.row.category) == ("unsafe", None)


def test_trust_decides_whose_label_is_the_answer(file: Path) -> None:
    verdicts = read_verdicts(written(file, said("a", 0.9), said("b", 0.9), said("c", 0.1)))
    rows = [
        row("a", request_label="safe"),
        row("b"),
        row("c", request_label="unsafe", category="C1S1"),
    ]
    by_teacher, _ = lessons(rows, verdicts, POLICY, "teacher")
    assert [x.row.request_label for x in by_teacher] == ["unsafe", "unsafe", "safe"]
    assert [x.row.category for x in by_teacher] == ["C8S1", "C8S1", None]
    by_rows, _ = lessons(rows, verdicts, POLICY, "rows")
    assert [x.row.request_label for x in by_rows] == ["safe", "unsafe", "unsafe"]
    assert [x.row.category for x in by_rows] == [None, "C8S1", "C1S1"]
    assert by_rows[0].differences == pytest.approx([math.log(9)])
