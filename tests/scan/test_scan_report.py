"""Reports: counts that add up, names that mean nothing to Markdown, a picture."""

from __future__ import annotations

import io
import json
from itertools import pairwise

import pytest
from PIL import Image
from scanning import JUDGING, Task, begin, line, write_rows

from proguard_edge.scan.drive import Run
from proguard_edge.scan.lines import to_bytes
from proguard_edge.scan.report import groups_of, markdown, plot, summary
from proguard_edge.scan.tally import Tally
from proguard_edge.scan.worker import Done

FOREIGN = {"id": None, "in_policy": False}
LINES = [
    line(),
    line("unsafe"),
    line("unsafe", modality="image"),
    line("unsafe", risk={**FOREIGN, "name": "Gambling Promotion"}),
    line("unsafe", risk={**FOREIGN, "name": "promoting illegal gambling"}),
    line("unsafe", risk={**FOREIGN, "name": "Gambling Promotion"}),
    line("unsafe", risk={**FOREIGN, "name": "a|b <script> [x](y) `z` $\\alpha \n $ 赌博"}),
    line("error", modality=None),
]


@pytest.fixture
def scan(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("x")
    (folder / "b.pdf").write_text("x")
    rows = write_rows(tmp_path / "rows.jsonl", [{"user": "a"}] * len(LINES))
    return begin(Task({}, None, JUDGING, 1), tmp_path / "out", rows, folder, shard_rows=99)


def test_counts_add_up_by_label_modality_category_and_group(scan):
    scan.finished(Done(0, b"".join(map(to_bytes, LINES))))
    scan.finished(Done(1, to_bytes(line(source="/folder"))))
    found = json.loads(json.dumps(summary(scan, Run(9, 2.0, 2, 1), groups_of(scan))))
    assert found["complete"]
    assert (found["safe"], found["unsafe"], found["error"]) == (2, 6, 1)
    assert found["modalities"] == {
        "image": {"safe": 0, "unsafe": 1, "error": 0},
        "text": {"safe": 2, "unsafe": 5, "error": 0},
        "unknown": {"safe": 0, "unsafe": 0, "error": 1},
    }
    assert found["sources"]["/folder"] == {"safe": 1, "unsafe": 0, "error": 0}
    assert found["categories"] == [{"id": "C1", "name": "Copyright", "rows": 2}]
    assert (found["unseen"]["rows"], found["unseen"]["names"]) == (4, 3)
    assert found["unseen"]["groups"][0] == {
        "name": "Gambling Promotion",
        "rows": 3,
        "names": {"Gambling Promotion": 2, "promoting illegal gambling": 1},
    }
    assert found["errors"] == {"TextError": 1}
    assert sum(found["scores"]["rows"]) == sum(t["rows"] for t in found["times"]) == 8
    # Times are binned: a twentieth off.
    assert found["ms"]["p50"] == pytest.approx(100, rel=0.05)
    assert found["not_looked_at"] == {str(scan.plan.sources[1].path): {".pdf": 1}}
    assert found["run"]["rows_per_second"] == 4.5


def test_a_page_shows_names_as_text_and_a_picture_is_drawn(scan):
    scan.finished(Done(0, b"".join(map(to_bytes, LINES))))
    scan.finished(Done(1, to_bytes(line())))
    found = summary(scan, Run(9, 2.0, 2, 1), groups_of(scan))
    page = markdown(found)
    assert "9 rows: 2 safe, 6 unsafe, 1 errors" in page
    assert "| 3 | Gambling Promotion | promoting illegal gambling (1) |" in page
    assert r"a\|b &lt;script> \[x](y) \`z\` $\alpha $ 赌博" in page
    assert "1 .pdf" in page
    assert "Not complete" not in page
    pytest.importorskip("matplotlib")
    with Image.open(io.BytesIO(plot(found))) as picture:
        assert picture.width > 1000


def test_a_scan_with_rows_missing_says_so_first(scan):
    scan.finished(Done(0, failure="3 workers died of rows 0 to 7"))
    scan.finished(Done(1, to_bytes(line())))
    found = summary(scan, Run(1, 2.0, 2, 1), groups_of(scan))
    assert not found["complete"]
    assert found["missing"] == len(LINES)
    page = markdown(found)
    assert "**Not complete: 8 of 9 rows have no verdict.**" in page
    assert "- 3 workers died of rows 0 to 7" in page


def test_a_scan_of_errors_alone_has_a_report(scan):
    pytest.importorskip("matplotlib")
    scan.finished(Done(0, to_bytes(line("error")) * len(LINES)))
    scan.finished(Done(1, to_bytes(line("error"))))
    found = summary(scan, Run(), groups_of(scan))
    assert found["ms"]["p50"] is None
    assert "9 errors" in markdown(found)
    assert plot(found).startswith(b"\x89PNG")


def test_quantiles_are_right_to_a_twentieth():
    tally = Tally()
    for ms in range(1, 1001):
        found = line()
        found["verdict"]["timings_ms"]["total"] = float(ms)
        tally.add(found)
    for share in (0.5, 0.9, 0.99):
        assert tally.quantile_ms(share) == pytest.approx(1000 * share, rel=0.06)
    bins = tally.time_bins()
    assert sum(rows for _, _, rows in bins) == 1000
    assert all(a[1] == b[0] for a, b in pairwise(bins))
