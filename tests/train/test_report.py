"""Counts of rows, as a dict, a table and a picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from proguard_edge.train import report
from proguard_edge.train.rows import Row


def row(**fields: object) -> Row:
    base = {"id": "a", "source": "s", "licence": "MIT", "user": "hi"}
    return Row.from_dict({**base, **fields})


ROWS = [
    row(request_label="safe"),
    row(request_label="safe", response_label="unsafe", category="C8S1"),
    row(request_label="unsafe", category="C10"),
    row(request_label="unsafe", category="C8S1"),
    row(),
    row(user=None, image="x.png", request_label="unsafe"),
]


def test_rows_are_counted_by_modality_label_and_category() -> None:
    counts = report.count_rows(ROWS)
    assert counts == {
        "text": {
            "safe": {"–": 1},
            "unsafe": {"C8S1": 2, "C10": 1},
            "unlabelled": {"–": 1},
        },
        "image": {"unsafe": {"–": 1}},
    }
    assert json.loads(json.dumps(counts)) == counts


def test_the_table_names_categories_in_policy_order_and_adds_up() -> None:
    table = report.markdown(report.count_rows(ROWS)).splitlines()
    assert table == [
        "| category | text safe | text unsafe | text unlabelled | image unsafe | all |",
        "|---|---:|---:|---:|---:|---:|",
        "| – | 1 |  | 1 | 1 | 3 |",
        "| C8S1 Weapons |  | 2 |  |  | 2 |",
        "| C10 Blood-Related Disturbing Content |  | 1 |  |  | 1 |",
        "| all | 1 | 3 | 1 | 1 | 6 |",
    ]


@pytest.mark.parametrize("rows", [ROWS, [row(request_label="safe")], []])
def test_the_plot_is_a_picture_even_of_nothing(tmp_path: Path, rows: list[Row]) -> None:
    pytest.importorskip("matplotlib")
    report.plot(report.count_rows(rows), tmp_path / "counts.png")
    with Image.open(tmp_path / "counts.png") as image:
        assert image.format == "PNG"
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 2


def test_the_command_prints_the_table_of_a_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.csv"
    file.write_text("prompt,type\na,contrast_x\nb,x\n")
    monkeypatch.setattr(sys, "argv", ["report", str(file)])
    report.main()
    assert "| all | 1 | 1 | 2 |" in capsys.readouterr().out
