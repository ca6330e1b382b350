"""One tiny checkpoint, and what is exported from it, for all tests of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny import tiny_checkpoint

from proguard_edge.artifact import Artifact
from proguard_edge.export.folder import Contents
from proguard_edge.export.onnx_artifact import export_onnx
from proguard_edge.policy import Policy
from proguard_edge.template import Template


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tied") / "tiny")


@pytest.fixture(scope="session")
def untied_checkpoint(tmp_path_factory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("untied") / "tiny", seed=1, tied=False)


@pytest.fixture(scope="session")
def model(checkpoint):
    from transformers import Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint).eval()


@pytest.fixture(scope="session")
def contents() -> Contents:
    return Contents(Policy.default(), Template.named("edge"), "tiny guard", languages=("en",))


@pytest.fixture(scope="session")
def fp32(checkpoint, contents, tmp_path_factory) -> Artifact:
    """The artifact in float32 throughout: the model builder runs once for most tests."""
    out = tmp_path_factory.mktemp("fp32") / "artifact"
    return export_onnx(checkpoint, out, contents, precision="fp32", embeddings="float32")
