"""Engines end in a result or an EngineError; a closed one, or one without all weights, in none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from variants import variant

from proguard_edge.artifact import Artifact, write_artifact
from proguard_edge.cache import Cache
from proguard_edge.engine import Engine, kv, load_engine
from proguard_edge.engine.kv import KVShape, PrefixStore
from proguard_edge.errors import EngineError
from proguard_edge.image import ImageProcessor

PREFIX, CONTENT = np.arange(1, 20), np.arange(30, 50)


@pytest.fixture(params=["tiny_onnx", "tiny_hf"])
def engine(request: pytest.FixtureRequest) -> Engine:
    folder: Path = request.getfixturevalue(request.param)
    return load_engine(Artifact.open(folder), Cache(None), threads=1)


def test_a_closed_engine_starts_nothing_and_continues_nothing(engine: Engine) -> None:
    sequence = engine.start(PREFIX)
    assert np.isfinite(sequence.extend(CONTENT)).all()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        sequence.extend(CONTENT)
    sequence.close()
    with pytest.raises(EngineError, match="closed"), engine.start(PREFIX) as again:
        again.extend(CONTENT)
    engine.close()


def test_a_closed_engine_does_not_load_the_vision_tower_again(tiny_onnx: Path) -> None:
    engine = load_engine(Artifact.open(tiny_onnx), Cache(None), threads=1)
    image = ImageProcessor(min_pixels=56 * 56, max_pixels=224 * 224)(Image.new("RGB", (60, 60)))
    pad = engine.image_token_id  # type: ignore[attr-defined]
    with engine.start(PREFIX) as sequence:
        engine.close()
        with pytest.raises(EngineError, match="closed"):
            sequence.extend(np.array([5, *[pad] * image.n_tokens, 6]), [image])
    assert engine._vision is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "error", [RuntimeError("out of memory\nand more"), ValueError(""), MemoryError()]
)
def test_whatever_a_library_raises_is_an_engine_error_of_one_line(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    if engine.kind == "onnx":
        monkeypatch.setattr(engine, "_run", fail)
    else:
        monkeypatch.setattr(engine.model, "forward", fail)  # type: ignore[attr-defined]
    with pytest.raises(EngineError, match="failed: ") as caught, engine.start(PREFIX) as sequence:
        sequence.extend(CONTENT)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    with engine.start(PREFIX) as sequence:
        assert np.isfinite(sequence.extend(CONTENT)).all()


def without(artifact: Path, folder: Path, *names: str) -> Path:
    """A copy of a reference artifact that lacks weights whose name ends so."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(artifact, folder)
    path = folder / "hf" / "model.safetensors"
    weights = load_file(path)
    kept = {key: value for key, value in weights.items() if not key.endswith(names)}
    assert len(kept) == len(weights) - len(names)
    path.unlink()
    save_file(kept, path, {"format": "pt"})
    write_artifact(folder, Artifact.open(folder).manifest)
    return folder


@pytest.mark.parametrize(
    "name", ["layers.1.mlp.down_proj.weight", "embed_tokens.weight", "blocks.3.attn.qkv.bias"]
)
def test_a_checkpoint_without_one_of_its_weights_is_refused(
    tiny_hf: Path, tmp_path: Path, name: str
) -> None:
    lacking = Artifact.open(without(tiny_hf, tmp_path / "a", name))
    with pytest.raises(EngineError, match=rf"the checkpoint lacks .*{name}"):
        load_engine(lacking, Cache(None), threads=1)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("raw", [b"", b"no weights\n" * 10])
def test_a_file_of_the_checkpoint_that_is_none_is_refused(
    tiny_hf: Path, tmp_path: Path, name: str, raw: bytes
) -> None:
    folder = variant(tiny_hf, tmp_path / "a")
    (folder / "hf" / name).write_bytes(raw)
    write_artifact(folder, Artifact.open(folder).manifest)
    with pytest.raises(EngineError, match="hf: cannot be loaded: ") as caught:
        load_engine(Artifact.open(folder), Cache(None), threads=1)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_whose_weights_have_another_shape_is_refused(
    tiny_hf: Path, tmp_path: Path
) -> None:
    folder = variant(tiny_hf, tmp_path / "a")
    config = folder / "hf" / "config.json"
    config.write_text(
        config.read_text().replace('"intermediate_size": 192', '"intermediate_size": 128')
    )
    write_artifact(folder, Artifact.open(folder).manifest)
    with pytest.raises(EngineError, match="hf: ") as caught:
        load_engine(Artifact.open(folder), Cache(None), threads=1)
    assert "\n" not in str(caught.value)


SHAPE = KVShape(2, 1, 4)


def state(value: int) -> np.ndarray:
    return SHAPE.zeros(16) + value


def test_prefix_states_take_no_more_memory_and_disk_than_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = state(0).nbytes
    monkeypatch.setattr(kv, "MEMORY_BYTES", 2 * size)
    monkeypatch.setattr(kv, "DISK_BYTES", 4 * (size + 32))
    store = PrefixStore(Cache(tmp_path / "cache"), SHAPE, ("x",))
    for i in range(9):
        store.put(f"{i}", state(i))
        held = store._memory
        assert sum(array.nbytes for array in held.values()) <= 2 * size
        assert sum(p.stat().st_size for p in (tmp_path / "cache").rglob("*") if p.is_file()) <= (
            4 * (size + 32)
        )
        found = store.get(f"{i}", 16)
        assert found is not None
        assert np.array_equal(found, state(i))
    # What fell out of memory comes from the disk, what fell out of both is computed again.
    for i in (5, 8):
        found = store.get(f"{i}", 16)
        assert found is not None
        assert np.array_equal(found, state(i))
    assert store.get("4", 16) is None
    # The one that was used last stays.
    assert list(store._memory) == ["5", "8"]


def test_a_state_larger_than_the_limit_still_serves_its_own_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kv, "MEMORY_BYTES", 1)
    store = PrefixStore(Cache(None), SHAPE, ("x",))
    for i in range(3):
        store.put(f"{i}", state(i))
        assert list(store._memory) == [f"{i}"]
        assert store.get(f"{i}", 16) is not None
