"""`train distil` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from proguard_edge.cli import main
from proguard_edge.verdict import Judgement, Risk, Verdict


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def distil(*arguments: object) -> Result:
    return run("train", "distil", *arguments)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """Two categories, for prompts of few tokens."""
    path = tmp_path / "policy.yaml"
    done = run("policy", "subset", "--keep", "C8S1,C10S2", "-o", path)
    assert done.exit_code == 0, done.output
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    Image.new("RGB", (84, 84), (20, 20, 220)).save(tmp_path / "blue.png")
    rows: list[dict[str, Any]] = [
        {"user": "bake bread", "request_label": "safe"},
        {"user": "cook soup"},
        {"user": "what is rye?", "response": "a grain", "response_label": "safe"},
        {"user": "and this?", "image": "blue.png", "request_label": "safe"},
    ]
    path = tmp_path / "rows.jsonl"
    base = {"source": "s", "licence": "MIT", "request_label": None}
    path.write_text(
        "".join(json.dumps({**base, "id": f"r{n}", **row}) + "\n" for n, row in enumerate(rows))
    )
    return path


def verdict(unsafe: bool, *seen: str) -> dict[str, Any]:
    judged = Judgement("unsafe", 0.98) if unsafe else Judgement("safe", 0.02)
    response = judged if "response" in seen else None
    risk = Risk("C8S1", "Weapons", True, 1.0) if unsafe else None
    return Verdict(judged, response, risk, None, ("user_text", *seen), "reason", "a" * 64).to_dict()


@pytest.fixture
def verdicts(tmp_path: Path) -> Path:
    """The teacher differs from the labels of the rows, and failed on one of them."""
    path = tmp_path / "said.jsonl"
    lines = [
        {"id": "r0", "key": "k", "verdict": verdict(True)},
        {"id": "r1", "key": "k", "error": {"type": "AnswerError", "message": "no"}},
        {"id": "r2", "key": "k", "verdict": verdict(False, "response")},
        {"id": "r3", "key": "k", "verdict": verdict(True, "image")},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_verdicts_of_a_teacher_elsewhere_teach_texts_and_pictures(
    tiny: Path, data: Path, verdicts: Path, policy: Path, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate")
    out = tmp_path / "run"
    options = ["--verdicts", verdicts, "--model", tiny, "--data", data, "--policy", policy]
    length = ["--steps", 24, "--batch", 3, "--rate", 3e-3, "--part", "all"]
    done = distil(*options, *length, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[-1]["checkpoint"] == str(out / "checkpoint")
    assert lines[-1]["rows"] == 3
    assert lines[0]["loss"] > 2 * lines[-2]["loss"]
    assert lines[-2]["agreement"] == 1, "student and teacher give the same labels"
    assert "1 rows left out: without verdict" in done.stderr
    record = json.loads((out / "checkpoint" / "training.json").read_text())
    assert record["verdicts"]["modes"] == ["reason"]
    assert record["counts"]["errors_in_file"] == 1
    assert record["trust"] == "teacher"


def test_a_students_layers_learn_from_the_model_that_they_are_of(
    tiny: Path, data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate")
    from proguard_edge.export.checkpoint import Checkpoint

    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(data.read_text().splitlines(keepends=True)[:3]))
    out = tmp_path / "run"
    options = ["--teacher", tiny, "--layers", "1", "--data", texts, "--shared-prefix"]
    done = distil(*options, "--out", out, "--tokens", 100, "--temperature", 3)
    assert done.exit_code == 0, done.output
    assert Checkpoint(out / "checkpoint").config.text_config.num_hidden_layers == 1
    record = json.loads((out / "checkpoint" / "training.json").read_text())
    assert record["teacher"] == Checkpoint(tiny).digest()
    assert (record["layers"], record["temperature"]) == ([1], 3.0)
    assert record["counts"]["unusable"] == 1, "a row without a label has no answer to teach"
    assert (out / "log.jsonl").is_file()
    assert "tokens/s" in done.stderr


def test_what_moderate_batch_wrote_is_what_teaches(
    tiny: Path, tiny_hf: Path, data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate")
    said = tmp_path / "batch.jsonl"
    judged = run("moderate-batch", data, "-o", said, "--artifact", tiny_hf, "--no-ocr")
    assert judged.exit_code in (0, 1), judged.output
    options = ["--verdicts", said, "--teacher-artifact", tiny_hf, "--model", tiny, "--data", data]
    done = distil(*options, "--out", tmp_path / "run", "--steps", 1, "--batch", 4, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["rows"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", 1], "give --teacher, or --verdicts and --model"),
        (["--verdicts", "v", "--steps", 1], "give --teacher, or --verdicts and --model"),
        (["--teacher", "t"], "--steps: how long to train"),
        (["--teacher", "t", "--shared-prefix"], "--tokens: how long to train"),
        (["--teacher", "t", "--tokens", 5], "--tokens has no meaning without --shared-prefix"),
        (
            ["--teacher", "t", "--shared-prefix", "--tokens", 5, "--save-every", 5],
            "--save-every has no meaning with --shared-prefix",
        ),
        (["--teacher", "t", "--steps", 1, "--keep", 2, "--layers", "1"], "--layers or --keep"),
        (
            ["--teacher", "t", "--steps", 1, "--teacher-artifact", "a"],
            "--teacher-artifact is for --verdicts",
        ),
    ],
)
def test_options_that_do_not_go_together_are_usage_errors(
    options: list[object], message: str, tmp_path: Path
) -> None:
    failed = distil("--data", tmp_path, "--out", tmp_path / "o", *options)
    assert failed.exit_code == 2, failed.output
    assert message in failed.stderr


def test_layers_that_are_no_numbers_are_a_usage_error(
    tiny: Path, data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate")
    options = ["--teacher", tiny, "--data", data, "--out", tmp_path / "o", "--steps", 1]
    failed = distil(*options, "--layers", "1,x")
    assert failed.exit_code == 2
    assert "numbers with commas" in failed.stderr
    failed = distil(*options, "--keep", 7)
    assert failed.exit_code == 3
    assert "has 2 layers" in failed.stderr


def test_a_template_that_answers_for_every_conversation_shares_no_prefix(
    tiny: Path, data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate")
    options = ["--teacher", tiny, "--data", data, "--out", tmp_path / "o", "--shared-prefix"]
    failed = distil(*options, "--tokens", 9, "--template", "proguard")
    assert failed.exit_code == 2
    assert "leave --shared-prefix out" in failed.stderr


def test_a_verdict_file_of_other_rows_is_one_clear_line(
    tiny: Path, data: Path, verdicts: Path, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate")
    other = tmp_path / "other.jsonl"
    other.write_text(verdicts.read_text().replace('"id": "r', '"id": "x'))
    options = ["--verdicts", other, "--model", tiny, "--data", data, "--out", tmp_path / "o"]
    failed = distil(*options, "--steps", 1)
    assert failed.exit_code == 3
    assert "answers none of the rows" in failed.stderr
    assert not (tmp_path / "o").exists()
