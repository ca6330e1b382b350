"""Fixtures that many tests share: one tiny random checkpoint, exported for every engine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(autouse=True)
def _own_folders(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No test touches the user's own cache; slow ones alone find the user's environments."""
    base = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("PROGUARD_EDGE_CACHE", str(base / "cache"))
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setenv("PROGUARD_EDGE_ENVS", str(base / "environments"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen2.5-VL checkpoint folder (needs the extra `export`)."""
    pytest.importorskip("transformers")
    from tiny import tiny_checkpoint

    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="session")
def tiny_onnx(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint as an fp32 ONNX artifact: text and images, both modes, free names."""
    pytest.importorskip("onnxruntime_genai")
    from artifacts import contents

    from proguard_edge.export.onnx_artifact import export_onnx

    out = tmp_path_factory.mktemp("onnx") / "artifact"
    export_onnx(tiny, out, contents(), precision="fp32", embeddings="float32")
    return out


@pytest.fixture(scope="session")
def tiny_hf(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint as an artifact of the reference engine."""
    from artifacts import contents

    from proguard_edge.export.transformers_artifact import export_transformers

    out = tmp_path_factory.mktemp("hf") / "artifact"
    export_transformers(tiny, out, contents())
    return out


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data and reference files beside the repository; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared")
    return SHARED
