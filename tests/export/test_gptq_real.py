"""Real runs of gptqmodel, in the environment of `env create gptq` or one that is told."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from gptq_folders import make_samples

from proguard_edge.environments import interpreter
from proguard_edge.export import gptq as stage
from proguard_edge.export.gptq import PYTHON, environment, quantize_gptq
from proguard_edge.export.gptq_layout import GptqCheckpoint
from proguard_edge.export.gptq_onnx import check_integers
from proguard_edge.export.gptq_round import round_to_gptq
from proguard_edge.export.onnx_decoder import finish_decoder
from proguard_edge.export.transformers_artifact import export_transformers
from proguard_edge.export.trtllm import convert_trtllm

GROUP = 64
GPTQ = interpreter("gptq", None, PYTHON)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.executable == GPTQ, reason=f"no {PYTHON}, no `env create gptq`"),
]


FORWARD = """
import sys, numpy as np, torch
from gptqmodel import GPTQModel, BACKEND
from gptqmodel.models.definitions.qwen2_5_vl import Qwen2_5_VLQModel
Qwen2_5_VLQModel.require_load_processor = False
folder, out = sys.argv[1:]
model = GPTQModel.load(folder, device="cpu", backend=BACKEND.GPTQ_TORCH, dtype=torch.float16)
modules = dict(model.model.named_modules())
found = {}
for name, module in modules.items():
    if type(module).__name__ == "TorchLinear" or hasattr(module, "qweight"):
        bias = module.bias
        # The identity shows the weights themselves, as the module's own forward uses them.
        y = module(torch.eye(module.in_features, dtype=torch.float16))
        found[name] = (y if bias is None else y - bias).detach().float().numpy()
np.savez(out, **found)
"""


def test_gptqmodel_makes_integers_that_every_format_holds_and_its_own_forward_uses(
    checkpoint, fp32, model, tmp_path
):
    samples = make_samples(checkpoint, model.config.image_token_id)
    lines = []
    out = quantize_gptq(
        checkpoint, tmp_path / "gptq", samples, group_size=GROUP, report=lines.append
    )
    record = json.loads((out / "quantization.json").read_text())
    assert (record["samples"], record["samples_with_images"]) == (8, 4)
    assert record["gptqmodel"] == stage.GPTQMODEL
    assert "14 matrices" in lines[-1]
    tokenizer = "tokenizer.json"
    assert (out / tokenizer).read_bytes() == (checkpoint / tokenizer).read_bytes()

    decoder, _ = finish_decoder(fp32.path("decoder.onnx"), tmp_path, "int4", gptq=out)
    assert check_integers(decoder, GptqCheckpoint(out)) == 2 * (64 * 192 * 4)
    convert_trtllm(out, tmp_path / "trtllm")

    done = subprocess.run(
        [GPTQ, "-c", FORWARD, str(out), str(tmp_path / "forward.npz")],
        env=environment(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(tmp_path / "forward.npz") as forward:
        assert len(forward.files) == 14
        for name, linear in GptqCheckpoint(out):
            # float16 products: half of its last place, of weights below 1.
            np.testing.assert_allclose(forward[name], linear.dequantize(), atol=1e-3)
            assert np.abs(forward[name]).max() > 0.1


ENGINE = """
import sys, numpy as np
from proguard_edge.artifact import Artifact
from proguard_edge.cache import Cache
from proguard_edge.engine import load_engine
artifact = Artifact.open(__import__("pathlib").Path(sys.argv[1]))
ids = np.load(sys.argv[2])
with load_engine(artifact, Cache(None), threads=1).start(ids[:20]) as sequence:
    np.save(sys.argv[3], sequence.extend(ids[20:]))
"""


def test_the_transformers_engine_runs_weights_of_gptq(checkpoint, contents, model, tmp_path):
    import torch

    out = tmp_path / "artifact"
    rounded = round_to_gptq(checkpoint, tmp_path / "gptq", GROUP)
    export_transformers(checkpoint, out, contents, gptq=rounded)
    ids = np.random.default_rng(0).integers(0, 400, 60)
    np.save(tmp_path / "ids.npy", ids)
    files = [str(tmp_path / name) for name in ("ids.npy", "logits.npy")]
    done = subprocess.run(
        [GPTQ, "-c", ENGINE, str(out), *files],
        env=environment(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    changed = copy.deepcopy(model)
    modules = dict(changed.model.language_model.named_modules())
    with torch.no_grad():
        original = model(input_ids=torch.tensor(ids)[None]).logits[0, -1].numpy()
        for short, name in GptqCheckpoint(rounded).decoder.items():
            weight = GptqCheckpoint(rounded).linear(name).dequantize()
            modules[short].weight.copy_(torch.from_numpy(weight.T))
        expected = changed(input_ids=torch.tensor(ids)[None]).logits[0, -1].numpy()
    found = np.load(tmp_path / "logits.npy")
    # gptqmodel computes in float16: 0.01 was measured on logits that deviate by 4.
    np.testing.assert_allclose(found, expected, atol=0.05)
    assert np.abs(found - original).max() > 0.5
