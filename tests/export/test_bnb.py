"""bitsandbytes artifacts on the transformers engine."""

from __future__ import annotations

import json

import numpy as np
import pytest
from artifacts import contents

from proguard_edge.artifact import Artifact, check_digests
from proguard_edge.cache import Cache
from proguard_edge.engine import load_engine
from proguard_edge.errors import ArtifactError
from proguard_edge.export import extras
from proguard_edge.export.bnb import export_bnb

IDS = np.arange(1, 60)


def logits(artifact: Artifact) -> np.ndarray:
    with load_engine(artifact, Cache(None), threads=1).start(IDS[:20]) as sequence:
        return sequence.extend(IDS[20:])


@pytest.mark.parametrize(("kind", "error"), [("nf4", 0.35), ("int8", 0.05)])
def test_it_loads_again_and_stays_near(checkpoint, fp32, tmp_path, kind, error):
    artifact = export_bnb(checkpoint, tmp_path / kind, contents(), kind=kind)
    check_digests(artifact)
    assert artifact.precision == f"bnb-{kind}"
    found, exact = logits(artifact), logits(fp32)
    assert 0 < np.linalg.norm(found - exact) / np.linalg.norm(exact) < error
    np.testing.assert_array_equal(found, logits(artifact))


def test_only_the_decoder_is_rounded(checkpoint, tmp_path):
    from safetensors import safe_open

    export_bnb(checkpoint, tmp_path / "a", contents())
    rounded = set()
    with safe_open(tmp_path / "a" / "hf" / "model.safetensors", "np") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            if file.get_slice(name).get_dtype() == "U8" and name.endswith(".weight"):
                rounded.add(name)
    assert len(rounded) == 2 * 7
    assert all(".layers." in name and "visual" not in name for name in rounded)
    config = json.loads((tmp_path / "a" / "hf" / "config.json").read_text())
    assert config["quantization_config"]["llm_int8_skip_modules"] == ["lm_head", "model.visual"]


def test_an_unknown_kind_and_a_missing_extra_are_named(checkpoint, tmp_path, monkeypatch):
    with pytest.raises(ArtifactError, match="known are nf4, int8"):
        export_bnb(checkpoint, tmp_path / "a", contents(), kind="nf3")
    real = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda n: None if n == "bitsandbytes" else real(n))
    with pytest.raises(ArtifactError, match=r"pip install 'proguard-edge\[bnb\]'"):
        export_bnb(checkpoint, tmp_path / "b", contents())
