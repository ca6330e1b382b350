"""`proguard-edge scan` without Ray: exit codes, what is printed, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from variants import ALL_SAFE, ALL_UNSAFE, variant

from proguard_edge.cli import main
from proguard_edge.policy import Policy
from proguard_edge.scan.drive import Run
from proguard_edge.scan.lines import to_bytes
from proguard_edge.scan.worker import Done, Worker


@pytest.fixture(scope="module")
def calm(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return variant(tiny_onnx, tmp_path_factory.mktemp("calm") / "artifact", calibration=ALL_SAFE)


@pytest.fixture(scope="module")
def wary(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return variant(tiny_onnx, tmp_path_factory.mktemp("wary") / "artifact", calibration=ALL_UNSAFE)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards are judged in this process, in place of Ray's."""
    pytest.importorskip("matplotlib")

    def judge_rest(scan, task, *, show, **_):
        worker, rows = Worker(task), scan.tally.rows
        for shard in scan.todo:
            scan.finished(worker.judge(shard))
            show(scan.progress())
        worker.close()
        return Run(scan.tally.rows - rows, 1.0, 1, 1)

    monkeypatch.setattr("proguard_edge.scan.drive.judge_rest", judge_rest)
    monkeypatch.setattr("proguard_edge.export.extras.need", lambda *_, **__: None)


def run(*arguments: object):
    return CliRunner().invoke(main, ["scan", "--threads", "1", "--no-ocr", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "b.md"):
        (tmp_path / "texts" / name).write_text("hello")
    (tmp_path / "texts" / "c.pdf").write_text("x")
    return tmp_path / "texts"


@pytest.mark.usefixtures("here")
def test_exit_codes_tell_safe_unsafe_and_error(calm, wary, folder, tmp_path):
    for number, (artifact, code) in enumerate(((calm, 0), (wary, 1))):
        done = run(folder, "-o", tmp_path / f"out{number}", "--artifact", artifact)
        assert done.exit_code == code, done.output
    assert "0 safe, 2 unsafe, 0 error" in done.output
    assert f"not looked at in {folder}: 1 .pdf" in done.output
    (folder / "empty.txt").write_text("")
    done = run(folder, "-o", tmp_path / "out2", "--artifact", calm)
    assert done.exit_code == 3
    assert "2 safe, 0 unsafe, 1 error" in done.output


@pytest.mark.usefixtures("here")
def test_a_second_run_judges_nothing_and_ends_alike(calm, folder, tmp_path):
    options = (folder, "-o", tmp_path / "out", "--artifact", calm, "--json", "--format", "jsonl")
    first = json.loads(run(*options).stdout)
    again = run(*options)
    assert again.exit_code == 0
    second = json.loads(again.stdout)
    assert (first["run"]["rows"], second["run"]["rows"]) == (2, 0)
    assert {**first, "run": 0} == {**second, "run": 0}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("parts", "scan.json", "summary.json", "report.md", "report.png")
    }


@pytest.mark.usefixtures("here")
def test_rows_without_a_verdict_are_an_error_and_never_safe(calm, folder, tmp_path, monkeypatch):
    failed = Done(0, failure="3 workers died of rows 0 to 1")
    monkeypatch.setattr(Worker, "judge", lambda *_: failed)
    done = run(folder, "-o", tmp_path / "out", "--artifact", calm)
    assert done.exit_code == 3
    assert "error: 3 workers died of rows 0 to 1" in done.stderr
    assert "error: 2 rows have no verdict: run it again" in done.stderr
    assert "Not complete" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.usefixtures("here")
def test_another_artifact_or_folder_is_refused_on_one_line(calm, wary, folder, tmp_path):
    out = tmp_path / "out"
    assert run(folder, "-o", out, "--artifact", calm).exit_code == 0
    for arguments, said in (
        ((folder, "-o", out, "--artifact", wary), "begun with another artifact; choose another"),
        ((folder, "-o", out, "--artifact", calm, "--format", "parquet"), "another --format"),
        ((folder, "-o", folder / "out", "--artifact", calm), "lies in"),
        ((tmp_path / "gone.jsonl", "-o", tmp_path / "new", "--artifact", calm), "No such file"),
    ):
        done = run(*arguments)
        assert done.exit_code == 3
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_missing_extra_is_said_before_anything_is_loaded(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("proguard_edge.export.extras.find_spec", lambda _: None)
    done = run(folder, "-o", tmp_path / "out")
    assert done.exit_code == 3
    assert "pip install 'proguard-edge[ray]'" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("here")
def test_risks_that_the_policy_lacks_become_a_draft_of_a_policy(
    wary, folder, tmp_path, monkeypatch
):
    judge = Worker.judge

    def named(self, shard):
        # The tiny model names what comes to its random mind.
        lines = [json.loads(raw) for raw in judge(self, shard).lines.splitlines()]
        for number, line in enumerate(lines):
            name = f"{('Illegal', 'Online')[number]} gambling"
            risk = {"id": None, "name": name, "in_policy": False, "score": 0.5}
            line["verdict"]["category"] = risk
        return Done(shard.number, b"".join(map(to_bytes, lines)))

    monkeypatch.setattr(Worker, "judge", named)
    done = run(folder, "-o", tmp_path / "out", "--artifact", wary)
    assert done.exit_code == 1
    assert "2  Illegal gambling (not in the policy)" in done.output
    draft = Policy.load(tmp_path / "out" / "draft.yaml")
    assert [(c.name, c.synonyms) for c in draft.categories] == [
        ("Illegal gambling", ("Online gambling",))
    ]
