"""Who is timed: artifacts of ours, and a server over HTTP."""

from __future__ import annotations

from pathlib import Path

import pytest
from artifacts import contents
from completions_server import CompletionsServer, HFModel

from proguard_edge.bench.ceilings import decoder_work
from proguard_edge.bench.latency import Settings
from proguard_edge.bench.runs import latency_report
from proguard_edge.errors import ArtifactError
from proguard_edge.export.onnx_artifact import export_onnx
from proguard_edge.export.ranges import measure_ranges
from proguard_edge.export.transformers_artifact import export_transformers
from proguard_edge.train.sft_data import Sample


@pytest.fixture(scope="module")
def artifact(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("served") / "artifact"
    export_transformers(tiny, out, contents("compact"))
    return out


@pytest.fixture
def short(tmp_path: Path) -> str:
    path = tmp_path / "short.yaml"
    path.write_text("scenarios: [{name: short, user_tokens: 8}]\n")
    return str(path)


def test_a_server_is_timed_beside_its_artifact(tiny: Path, artifact: Path, short: str) -> None:
    server = CompletionsServer(HFModel(tiny))
    try:
        served = f"{artifact}@{server.url}"
        report = latency_report([str(artifact), served], short, Settings(3, 30), 1)
    finally:
        server.close()
    first, second = report["results"]
    assert (first["runs"], second["runs"], second["errors"]) == (3, 3, {})
    assert [c["engine"] for c in report["contenders"]] == ["transformers", "remote"]
    assert report["ratios"][0]["agreement"] == 1
    # The label comes before the category, which the tiny model gives for about half of them.
    assert first["label_ms"]["value"] <= first["ms"]["p50"]["value"]
    assert server.asked


def test_peers_that_are_not_known_are_named(artifact: Path, short: str) -> None:
    with pytest.raises(ArtifactError, match=r"no peer 'other'; known are transformers"):
        latency_report([str(artifact), "other=x"], short, Settings(3, 30), 1)


@pytest.mark.parametrize("precision", ["fp32", "int4", "w8a8"])
def test_the_weights_that_a_token_is_multiplied_with_are_counted(
    tiny: Path, precision: str, tmp_path: Path
) -> None:
    more = {}
    if precision == "w8a8":
        prompt = Sample([5, 9, 33, 120, 7], [5, 9, 33, 120, 7], (), 5)
        more = {"ranges": measure_ranges(tiny, tmp_path / "ranges.npz", [prompt])}
    made = export_onnx(tiny, tmp_path / "artifact", contents(), precision=precision, **more)
    work = decoder_work(made)
    assert work is not None
    assert work.weights == 2 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 192)
