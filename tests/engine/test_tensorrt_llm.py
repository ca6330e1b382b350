"""The engine for TensorRT-LLM gives the verdicts of transformers, over a stand-in for the library.

The library itself needs a GPU and was not run; what its documentation says is in the stand-in.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from artifacts import contents
from fake_tensorrt_llm import LLM, install
from PIL import Image
from variants import variant

from proguard_edge.artifact import Artifact, write_artifact
from proguard_edge.errors import ArtifactError, EngineError, LimitError
from proguard_edge.export.transformers_artifact import export_transformers
from proguard_edge.guard import Guard
from proguard_edge.image import ImageProcessor

TOLERANCE = 1e-4
SETTINGS = "kv_cache_config:\n  enable_block_reuse: true\nenable_chunked_prefill: true\n"
SEEN = Image.fromarray(
    np.random.default_rng(1).integers(0, 256, (90, 140, 3), dtype=np.uint8), "RGB"
)


@pytest.fixture(scope="module")
def reference(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "artifact"
    export_transformers(tiny, out, contents("compact", limits={"reason_tokens": 6}))
    return out


@pytest.fixture(scope="module")
def artifact(tiny: Path, reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with its weights under `trtllm/`."""
    out = tmp_path_factory.mktemp("trtllm") / "artifact"
    shutil.copytree(reference, out)
    (out / "hf").rename(out / "trtllm")
    shutil.copyfile(tiny / "tokenizer.json", out / "trtllm" / "tokenizer.json")
    (out / "trtllm" / "serve.yaml").write_text(SETTINGS)
    write_artifact(out, {**Artifact.open(reference).manifest, "engine": "tensorrt_llm"})
    return out


@pytest.fixture(scope="module")
def local(reference: Path) -> Iterator[Guard]:
    with Guard.load(reference, threads=1, ocr=False) as guard:
        yield guard


@pytest.fixture
def guard(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guard]:
    install(monkeypatch)
    with Guard.load(artifact, ocr=False) as guard:
        yield guard


def library() -> LLM:
    assert LLM.made is not None
    return LLM.made


CASES: dict[str, dict[str, Any]] = {
    "text": {"user": "How do I kill a process?"},
    "response": {"user": "Write me a poem.", "response": "The sea, <|im_end|> </answer> and me."},
    "reason": {"user": "hello", "mode": "reason"},
    "image": {"image": SEEN},
    "text and image": {"user": "What is <|image_pad|> this?", "image": SEEN, "response": "A cat."},
}


@pytest.mark.parametrize("case", CASES)
def test_verdicts_are_those_of_the_reference(guard: Guard, local: Guard, case: str) -> None:
    mine, theirs = guard.moderate(**CASES[case]), local.moderate(**CASES[case])
    for part in ("request", "response"):
        left, right = getattr(mine, part), getattr(theirs, part)
        assert (left is None) == (right is None)
        if left is not None:
            assert (left.label, left.score) == (
                right.label,
                pytest.approx(right.score, abs=TOLERANCE),
            )
    assert (mine.category is None) == (theirs.category is None)
    if mine.category is not None and theirs.category is not None:
        assert replace(mine.category, score=0) == replace(theirs.category, score=0)
        assert mine.category.score == pytest.approx(theirs.category.score, abs=TOLERANCE)
    assert (mine.reasoning, mine.tokens) == (theirs.reasoning, theirs.tokens)


def test_settings_of_the_artifact_reach_the_library(guard: Guard) -> None:
    assert guard.engine.kind == "tensorrt_llm"
    assert library().settings == {"kv": {"enable_block_reuse": True}, "chunked": True}


def test_blocks_of_one_picture_are_never_those_of_another(guard: Guard) -> None:
    guard.moderate(image=SEEN)
    first = set(library().salts)
    library().salts.clear()
    guard.moderate(image=Image.new("RGB", SEEN.size))
    assert None not in first | set(library().salts)
    assert not first & set(library().salts)
    library().salts.clear()
    guard.moderate("hello")
    assert set(library().salts) == {None}


def with_output(**changes: Any) -> Callable[[Any], Any]:
    def twist(result: Any) -> Any:
        fields = {**vars(result.outputs[0]), **changes}
        return SimpleNamespace(**{**vars(result), "outputs": [SimpleNamespace(**fields)]})

    return twist


TWISTS: dict[str, Callable[[Any], Any]] = {
    "no logits": with_output(generation_logits=None),
    "another token": with_output(token_ids=[3]),
    "two tokens": with_output(token_ids=[3, 4]),
    "no outputs": lambda result: SimpleNamespace(**{**vars(result), "outputs": []}),
    "another prompt": lambda result: SimpleNamespace(
        **{**vars(result), "prompt_token_ids": [1, *result.prompt_token_ids[1:]]}
    ),
    "a longer prompt": lambda result: SimpleNamespace(
        **{**vars(result), "prompt_token_ids": [*result.prompt_token_ids, 1]}
    ),
    "no prompt": lambda result: SimpleNamespace(outputs=result.outputs),
}


@pytest.mark.parametrize("twist", TWISTS)
def test_an_answer_that_is_not_to_what_was_asked_is_an_error(guard: Guard, twist: str) -> None:
    library().twist = TWISTS[twist]
    with pytest.raises(EngineError) as caught:
        guard.moderate("hello")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(1, 10), (2, 640), (640,)])
def test_logits_of_another_shape_are_an_error(guard: Guard, shape: tuple[int, ...]) -> None:
    import torch

    library().twist = with_output(generation_logits=torch.zeros(shape), token_ids=[0])
    with pytest.raises(EngineError, match="of the shape"):
        guard.moderate("hello")


def test_what_the_library_raises_is_an_error_of_one_line(
    guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: out of memory\nand more")

    monkeypatch.setattr(library(), "generate", fail)
    with pytest.raises(EngineError, match=r"out of memory$"):
        guard.moderate("hello")


def test_a_closed_engine_judges_nothing(guard: Guard) -> None:
    guard.close()
    with pytest.raises(EngineError, match="closed"):
        guard.moderate("hello")
    guard.close()


def test_more_than_the_context_is_a_limit(guard: Guard) -> None:
    sequence = guard.engine.start(np.arange(1, 5))
    with pytest.raises(LimitError, match="4095 at most"):
        sequence.extend(np.full(4092, 7))
    with pytest.raises(EngineError, match="nothing to compute"):
        sequence.extend(np.array([], np.int64))


def test_without_the_library_the_error_names_the_fix(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_llm", None)
    with pytest.raises(EngineError, match="NVIDIA GPU and `pip install tensorrt-llm`") as caught:
        Guard.load(artifact, ocr=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        ("- a\n", ArtifactError, "not settings"),
        ("a: [", ArtifactError, "cannot be read"),
        ("trust_remote_code: true\n", ArtifactError, "may not set trust_remote_code"),
        ("no_such_setting: 1\n", EngineError, "no_such_setting"),
    ],
)
def test_settings_that_are_none_are_an_error(
    artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: str,
    kind: type[Exception],
    said: str,
) -> None:
    install(monkeypatch)
    folder = variant(artifact, tmp_path / "a")
    (folder / "trtllm" / "serve.yaml").write_text(settings)
    write_artifact(folder, Artifact.open(folder).manifest)
    with pytest.raises(kind, match=said) as caught:
        Guard.load(folder, ocr=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(28, 28), (90, 140), (333, 57), (224, 224)])
def test_patches_give_back_their_picture(size: tuple[int, int]) -> None:
    """The picture that patches give makes these very patches again."""
    values = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    processor = ImageProcessor(min_pixels=56 * 56, max_pixels=224 * 224)
    patches = processor(Image.fromarray(values))
    picture = patches.picture()
    assert (picture.height, picture.width) == (14 * patches.grid[1], 14 * patches.grid[2])
    assert np.array_equal(processor(picture).pixels, patches.pixels)
    if size == (224, 224):
        assert np.array_equal(np.asarray(picture), values)
