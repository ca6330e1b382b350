"""verl's metric lines as steps, a log, a line and a plot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proguard_edge.train.verl.parts import means
from proguard_edge.train.verl.progress import Follower, append, describe, parse, plot, read

DATA = {
    "critic/score/mean": 1.25,
    "reward/score": 1.25,
    "reward/format": 0.75,
    "reward/request": 0.5,
    "reward/response": 0.5,
    "reward/category": 0.25,
    "actor/kl_loss": 0.001,
    "actor/entropy": 2.5,
    "response_length/mean": 41.0,
    "timing_s/step": 12.5,
    "val-core/text/reward/mean@1": 1.5,
    "val-aux/text/format/mean@1": 1.0,
}


def line(step: int, **changes: object) -> bytes:
    return json.dumps({"step": step, "data": {**DATA, **changes}}).encode()


def test_a_line_of_verls_file_logger_becomes_a_step() -> None:
    step = parse(line(3))
    assert step is not None
    assert (step.step, step.reward, step.format, step.category) == (3, 1.25, 0.75, 0.25)
    assert (step.kl, step.entropy, step.length, step.seconds) == (0.001, 2.5, 41.0, 12.5)
    assert step.validation == {"core/text/reward/mean@1": 1.5, "aux/text/format/mean@1": 1.0}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": 1}', '{"step": null, "data": {}}'])
def test_what_is_no_step_is_passed_over(text: str) -> None:
    assert parse(text) is None


def test_a_number_that_is_none_is_missing() -> None:
    step = parse('{"step": 1, "data": {"actor/kl_loss": NaN, "response_length/mean": 2}}')
    assert step is not None
    assert step.kl is None
    assert step.trained


def test_the_line_for_a_terminal_names_reward_parts_and_validation() -> None:
    step = parse(line(3))
    assert step is not None
    assert describe(step, 10) == (
        "step 3/10  reward 1.250  format 0.750  request 0.500  response 0.500  category 0.250  "
        "kl 0.0010  entropy 2.50  41 tokens  12.5 s  validation text 1.500"
    )


def test_a_follower_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    follower = Follower(path)
    assert list(follower.new()) == []
    path.write_bytes(line(1) + b"\n" + line(2)[:20])
    assert [step.step for step in follower.new()] == [1]
    with path.open("ab") as file:
        file.write(line(2)[20:] + b"\n")
    assert [step.step for step in follower.new()] == [2]


def test_of_a_step_that_was_run_again_the_log_keeps_the_last(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for number, reward in ((1, 0.5), (2, 1.0), (2, 1.5)):
        step = parse(line(number, **{"reward/score": reward}))
        assert step is not None
        append(path, step)
    assert [(step.step, step.reward) for step in read(path)] == [(1, 0.5), (2, 1.5)]


def test_a_run_is_drawn_as_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    steps = [step for number in (1, 2) if (step := parse(line(number))) is not None]
    assert plot(steps, tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    assert not plot([], tmp_path / "none.png")


def test_parts_are_averaged_over_all_answers_and_over_each_modality() -> None:
    infos = [
        {"score": 3.0, "format": 1.0, "modality": "text"},
        {"score": 0.0, "format": 0.0, "modality": "image"},
    ]
    assert means(infos) == {
        "reward/score": 1.5,
        "reward/format": 0.5,
        "reward/total/text": 3.0,
        "reward/total/image": 0.0,
    }
