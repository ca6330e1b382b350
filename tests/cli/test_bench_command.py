"""`proguard-edge bench` and `eval` on a tiny artifact."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("onnxruntime_genai")

from proguard_edge.cli import main

SCENARIOS = """
scenarios:
  - {name: text, user_tokens: 12}
  - {name: picture, image_pixels: 56}
"""


@pytest.fixture
def scenarios(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text(SCENARIOS)
    return file


def called(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_latency_beside_another_engine_and_compared_with_itself(
    tiny_onnx, tiny_hf, scenarios, tmp_path
):
    out, page, picture = (tmp_path / name for name in ("r.json", "r.md", "r.png"))
    options = ("--scenarios", scenarios, "--rounds", 5, "--vs", tiny_hf, "--threads", 1)
    done = called(
        "bench", "latency", tiny_onnx, *options, "--out", out, "--markdown", page, "--plot", picture
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.output.splitlines()[-1])
    assert report == json.loads(out.read_text())
    assert [c["engine"] for c in report["contenders"]] == ["onnx", "transformers"]
    assert {r["scenario"] for r in report["results"]} == {"text", "picture"}
    for one in report["results"]:
        assert one["runs"] == 5
        assert not one["errors"]
        phases = sum(one["phases_ms"].values())
        assert phases == pytest.approx(one["ms"]["p50"]["value"], rel=0.5)
    assert "vision" in report["results"][1]["phases_ms"]
    # The same weights in float32: the same labels, scenario by scenario.
    assert [r["agreement"] for r in report["ratios"]] == [1.0, 1.0]
    assert report["ceilings"]["gflops"] > 1
    assert report["roofline"][0]["share_of_arithmetic"] > 0
    assert "## Phases" in page.read_text()
    assert picture.stat().st_size > 5000
    assert called("bench", "compare", out, out).exit_code == 0
    slow = json.loads(out.read_text())
    for one in slow["results"]:
        one["samples_ms"] = [20 * ms for ms in one["samples_ms"]]
    (tmp_path / "slow.json").write_text(json.dumps(slow))
    done = called("bench", "compare", out, tmp_path / "slow.json", "--threshold", 0.01)
    assert done.exit_code == 1
    assert "SLOWER" in done.output
    slow["machine"]["cpu"] = "another"
    (tmp_path / "slow.json").write_text(json.dumps(slow))
    done = called("bench", "compare", out, tmp_path / "slow.json")
    assert done.exit_code == 3
    assert "--any-machine" in done.output


def test_what_cannot_be_timed_is_one_line(tiny_onnx, scenarios):
    for spec, said in (
        ("llama=x", "no peer 'llama'"),
        ("nowhere", "not an artifact"),
        ("transformers=nowhere", "nowhere"),
    ):
        done = called("bench", "latency", tiny_onnx, "--scenarios", scenarios, "--vs", spec)
        assert done.exit_code == 3
        assert said in done.output.splitlines()[-1]


def test_peers_give_the_same_label_as_ours(tiny_onnx, tiny, tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text(
        "scenarios: [{name: text, user_tokens: 12}, "
        "{name: both, user_tokens: 9, response_tokens: 9}]"
    )
    done = called(
        "bench",
        "latency",
        tiny_onnx,
        "--scenarios",
        file,
        "--rounds",
        4,
        "--vs",
        f"transformers={tiny}",
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.output.splitlines()[-1])
    assert [(r["contender"], r["agreement"]) for r in report["ratios"]] == [
        ("transformers", 1.0)
    ] * 2


def test_throughput_of_a_closed_loop_and_of_arrivals(tiny_onnx, tmp_path):
    done = called(
        "bench",
        "throughput",
        tiny_onnx,
        "--requests",
        12,
        "--clients",
        2,
        "--rate",
        40,
        "--threads",
        1,
        "--plot",
        tmp_path / "t.png",
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.output.splitlines()[-1])
    assert [one["load"] for one in report["results"]] == ["2 clients", "40.00/s Poisson"]
    assert all(one["per_second"] > 0 and not one["errors"] for one in report["results"])
    assert (tmp_path / "t.png").is_file()


def test_startup_is_that_of_the_command(tiny_onnx):
    done = called("bench", "startup", tiny_onnx, "--runs", 1)
    assert done.exit_code == 0, done.output
    found = json.loads(done.output.splitlines()[-1])["results"]
    assert 0.1 < found["cached_s"]["value"] < 60
    assert found["peak_rss_mb"] > 20


def test_eval_judges_once_and_writes_its_report(tiny_onnx, tmp_path, monkeypatch):
    Image.new("RGB", (60, 60), "red").save(tmp_path / "a.png")
    rows = [
        {
            "id": str(n),
            "source": "xstest",
            "licence": "MIT",
            "modality": "text",
            "user": f"text {n}",
            "response": None,
            "image": None,
            "request_label": ("safe", "unsafe")[n % 2],
            "response_label": None,
            "category": "C8S1" if n % 2 else None,
            "source_category": None,
        }
        for n in range(6)
    ]
    rows.append(
        {
            **rows[0],
            "id": "p",
            "source": "pictures",
            "modality": "image",
            "user": None,
            "image": "a.png",
        }
    )
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = tmp_path / "p.csv"
    table.write_text("table,metric,model,dataset,value\nprompt_text,F1,X,XSTest,80\n")
    arguments = (
        "eval",
        data,
        "--artifact",
        tiny_onnx,
        "-o",
        tmp_path / "out",
        "--published",
        table,
        "--json",
    )
    done = called(*arguments)
    assert done.exit_code == 0, done.output
    report = json.loads(done.output.splitlines()[-1])
    assert {
        g["source"]: g["safe"] + g["unsafe"] for g in report["groups"] if g["source"] != "all"
    } == {"xstest": 6, "pictures": 1}
    assert next(g for g in report["groups"] if g["source"] == "xstest")["published"] == {"X": 80.0}
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "report.json",
        "report.md",
        "report.png",
        "verdicts",
    }
    monkeypatch.setattr(
        "proguard_edge.guard.Guard.judge", lambda *_, **__: pytest.fail("judged again")
    )
    assert json.loads(called(*arguments).output.splitlines()[-1]) == report
