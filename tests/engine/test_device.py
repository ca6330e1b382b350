"""Where engines compute. No GPU is needed: what CUDA itself does is not shown here.

`meta` stands in for a device that is not the processor: a tensor that was left behind lies on
another one than it, which a run on the CPU alone would never show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from proguard_edge.artifact import Artifact
from proguard_edge.cache import Cache
from proguard_edge.cli import main
from proguard_edge.engine import load_engine, transformers
from proguard_edge.engine.transformers import TransformersEngine
from proguard_edge.errors import EngineError
from proguard_edge.guard import Guard
from proguard_edge.image import ImageProcessor, Patches

torch = pytest.importorskip("torch")

PREFIX, CONTENT = np.arange(1, 20), np.arange(30, 50)


def logits(engine: Any, images: list[Patches] | None = None) -> np.ndarray:
    ids = CONTENT
    if images:
        ids = np.array([5, *[engine.image_token_id] * images[0].n_tokens, 6])
    with engine.start(PREFIX) as sequence:
        found: np.ndarray = sequence.extend(ids, images or [])
    return found


def picture() -> Patches:
    return ImageProcessor(min_pixels=56 * 56, max_pixels=224 * 224)(Image.new("RGB", (60, 60)))


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine takes the device `meta`, whatever it is told."""
    monkeypatch.setattr(transformers, "_device", lambda *_: "meta")


def test_auto_is_the_processor_where_torch_sees_no_gpu(tiny_hf):
    engine = load_engine(Artifact.open(tiny_hf), Cache(None))
    assert engine.device == "cpu"
    assert {p.dtype for p in engine.model.parameters()} == {torch.float32}
    told = load_engine(Artifact.open(tiny_hf), Cache(None), device="cpu")
    np.testing.assert_array_equal(logits(engine), logits(told))


def test_a_gpu_that_is_not_there_is_an_error_of_one_line_and_never_the_processor(tiny_hf):
    with pytest.raises(EngineError, match=r"no CUDA device.*--device cpu") as caught:
        Guard.load(tiny_hf, device="cuda", ocr=False)
    assert "\n" not in str(caught.value)
    words = ["moderate", "--text", "hello", "--device", "cuda", "--artifact", str(tiny_hf)]
    done = CliRunner().invoke(main, words)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (3, "", 1)


def test_engines_are_told_no_device_that_they_do_not_have(tiny_onnx, tiny_hf):
    onnx = Artifact.open(tiny_onnx)
    assert load_engine(onnx, Cache(None), device="cpu").device == "cpu"
    with pytest.raises(EngineError, match="onnx runs on cpu alone"):
        load_engine(onnx, Cache(None), device="cuda")
    with pytest.raises(EngineError, match="no device 'tpu'"):
        load_engine(Artifact.open(tiny_hf), Cache(None), device="tpu")


def test_the_device_follows_what_is_asked_for_and_what_is_there(monkeypatch):
    for there, wanted, expected in (
        (True, "auto", "cuda"),
        (True, "cuda", "cuda"),
        (True, "cpu", "cpu"),
        (False, "auto", "cpu"),
        (False, "cpu", "cpu"),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert transformers._device(torch, wanted) == expected


def test_weights_in_bf16_give_nearly_the_logits_of_fp32(tiny_hf):
    artifact, image = Artifact.open(tiny_hf), picture()
    exact = TransformersEngine(artifact, device="cpu")
    rounded = TransformersEngine(artifact, device="cpu", dtype="bfloat16")
    assert {p.dtype for p in rounded.model.parameters()} == {torch.bfloat16}
    for images in ([], [image]):
        near, right = logits(rounded, images), logits(exact, images)
        assert near.dtype == np.float32
        # bf16 has 8 bits of mantissa: single values are off by 2^-9, sums over layers by a few %.
        off = np.linalg.norm(near - right) / np.linalg.norm(right)
        assert 0 < off < 0.05


@dataclass
class Out:
    past_key_values: Any
    logits: Any


class Recorder:
    """Stands in for the model: keeps what it was given."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, **given: Any) -> Out:
        self.calls.append(given)
        return Out(given["past_key_values"] or ["state"], torch.arange(12.0).view(1, 1, 12))


@pytest.mark.usefixtures("on_meta")
def test_every_tensor_that_the_model_is_given_lies_on_its_device(tiny_hf):
    engine = TransformersEngine(Artifact.open(tiny_hf), dtype="bfloat16")
    assert {p.device.type for p in engine.model.parameters()} == {"meta"}
    assert {b.device.type for b in engine.model.buffers()} == {"meta"}
    engine.model = recorder = Recorder()
    found = logits(engine, [picture()])
    assert (found.dtype, found.tolist()) == (np.float32, list(range(12)))
    prefix, content = recorder.calls
    assert set(content) - set(prefix) == {"pixel_values", "image_grid_thw"}
    for call in recorder.calls:
        tensors = {k: v for k, v in call.items() if isinstance(v, torch.Tensor)}
        assert {"input_ids", "position_ids", "attention_mask"} <= set(tensors)
        assert {k: v.device.type for k, v in tensors.items()} == dict.fromkeys(tensors, "meta")


@pytest.mark.usefixtures("on_meta")
def test_the_state_of_a_prefix_stays_on_the_device(tiny_hf):
    engine = TransformersEngine(Artifact.open(tiny_hf), dtype="bfloat16")
    with torch.inference_mode():
        state = engine.model(
            input_ids=torch.ones((1, 3), dtype=torch.long, device="meta"), use_cache=True
        ).past_key_values
    engine._prefixes[PREFIX.tobytes()] = state
    with engine.start(PREFIX) as sequence:
        assert sequence.cache is not state
        assert {layer.keys.device.type for layer in sequence.cache.layers} == {"meta"}
        assert {layer.keys.dtype for layer in sequence.cache.layers} == {torch.bfloat16}


def test_weights_that_lie_elsewhere_are_refused(tiny_hf, monkeypatch):
    monkeypatch.setattr(transformers, "_device", lambda *_: "meta")
    monkeypatch.setattr(torch.nn.Module, "to", lambda model, *_: model)
    with pytest.raises(EngineError, match="weights lie on cpu, not on meta alone"):
        TransformersEngine(Artifact.open(tiny_hf))


@pytest.mark.usefixtures("on_meta")
def test_plain_weights_are_bf16_on_a_gpu_and_quantized_ones_as_they_name_it(tiny_hf):
    engine = TransformersEngine(Artifact.open(tiny_hf))
    assert {p.dtype for p in engine.model.parameters()} == {torch.bfloat16}
    assert engine._dtype("gptq") == "auto"
    assert engine._dtype("bitsandbytes") == "auto"
    engine.device = "cpu"
    assert engine._dtype("gptq") == engine._dtype(None) == "float32"


class Loader:
    """Stands in for the class of the model: keeps the options that it was loaded with."""

    def __init__(self, real: Any) -> None:
        self.real, self.options = real, list[dict[str, Any]]()

    def from_pretrained(self, folder: Path, **options: Any) -> Any:
        self.options.append(options)
        kept = {k: v for k, v in options.items() if k != "device_map"}
        return self.real.from_pretrained(folder, **kept)


def test_quantized_weights_are_told_where_to_lie_and_are_not_moved(tiny_hf, monkeypatch):
    from transformers import Qwen2_5_VLForConditionalGeneration

    engine = TransformersEngine(Artifact.open(tiny_hf), device="cpu")
    loader = Loader(Qwen2_5_VLForConditionalGeneration)
    monkeypatch.setattr(torch.nn.Module, "to", lambda *_: pytest.fail("moved"))
    engine._load(loader, tiny_hf / "hf", "float32", "bitsandbytes")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    engine._load(loader, tiny_hf / "hf", "auto", "bitsandbytes")
    assert "device_map" not in loader.options[0]
    assert loader.options[1]["device_map"] == {"": "cpu"}
    assert [of["dtype"] for of in loader.options] == [torch.float32, "auto"]


def full(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has …")


@pytest.fixture
def engine(tiny_hf: Path) -> Iterator[TransformersEngine]:
    found = TransformersEngine(Artifact.open(tiny_hf), device="cpu")
    yield found
    found.close()


def test_a_full_gpu_names_the_fix_while_judging(engine, monkeypatch):
    assert np.isfinite(logits(engine)).all()
    monkeypatch.setattr(engine.model, "forward", full)
    with pytest.raises(EngineError, match=r"memory is full: .*bnb-nf4.*--device cpu") as one:
        logits(engine)
    monkeypatch.undo()
    monkeypatch.setattr(transformers.copy, "deepcopy", full)
    with pytest.raises(EngineError, match="GPU's memory is full"):
        logits(engine)
    assert "\n" not in str(one.value)
    monkeypatch.undo()
    assert np.isfinite(logits(engine)).all()


def test_a_full_gpu_names_the_fix_while_loading(tiny_hf, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(EngineError, match="cannot be loaded: the GPU's memory is full"):
        TransformersEngine(Artifact.open(tiny_hf))


def test_a_guard_and_the_plan_of_a_scan_say_where_it_computes(tiny_hf):
    from proguard_edge.scan.plan import Judging

    with Guard.load(tiny_hf, threads=1, ocr=False) as guard:
        told = Judging.of(guard, None, "verdict")
        assert (told.engine, told.device) == ("transformers", "cpu")
        guard.engine.device = "cuda"
        assert told.differences(Judging.of(guard, None, "verdict")) == ["device"]


def test_a_server_has_no_device_of_ours(tiny_onnx):
    from proguard_edge.engine import Server

    with pytest.raises(EngineError, match="where its server does"):
        load_engine(
            Artifact.open(tiny_onnx),
            Cache(None),
            "remote",
            server=Server("http://127.0.0.1:9/v1"),
            device="cuda",
        )
