"""The fixes refuse what they were not written for, and do what they say on what they were."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from proguard_edge.errors import TrainingError
from proguard_edge.train.verl import fixes
from proguard_edge.train.verl.stage import check_python


def test_another_version_of_verl_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.ModuleType("verl")
    fake.__version__ = "0.9.2"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "verl", fake)
    with pytest.raises(TrainingError, match=r"pip install verl==0\.9\.1"):
        fixes.apply()


def test_a_python_without_verl_is_refused_with_the_command_that_makes_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    try:
        import verl  # noqa: F401
    except ImportError:
        with pytest.raises(TrainingError, match="proguard-edge env create grpo"):
            check_python(sys.executable, "cpu")
    else:
        check_python(sys.executable, "cpu")


def test_a_python_that_is_not_there_is_refused() -> None:
    with pytest.raises(TrainingError, match="cannot be run"):
        check_python("/no/such/python", "cpu")


def test_text_only_batches_send_a_blank_picture_through_the_vision_tower() -> None:
    torch = pytest.importorskip("torch")
    seen: list[Any] = []

    def visual(pixels: Any, grid_thw: Any) -> Any:
        seen.append((pixels.shape, grid_thw.tolist()))
        return types.SimpleNamespace(pooler_output=torch.ones(4, 8))

    module = types.SimpleNamespace(
        _get_input_embeds=lambda *_, **__: "original",
        unpack_visual_output=lambda out: (out.pooler_output, None),
    )
    vision = types.SimpleNamespace(in_channels=3, temporal_patch_size=2, patch_size=14)
    model = types.SimpleNamespace(
        get_input_embeddings=lambda: lambda ids: torch.ones(*ids.shape, 8),
        visual=visual,
        config=types.SimpleNamespace(vision_config=vision),
    )
    fixes._mend_text_only_batches(module)
    embeds, mask = module._get_input_embeds(model, torch.zeros(1, 5, dtype=torch.long), None)
    assert embeds.shape == (1, 5, 8)
    assert mask is None
    assert seen == [((16, 1176), [[1, 4, 4]])]
    assert module._get_input_embeds(model, None, None, torch.ones(1)) == "original"


def test_turned_positions_are_told_from_straight_ones() -> None:
    torch = pytest.importorskip("torch")
    straight = _Nested(torch.zeros(4, 14), torch.tensor([0, 7, 14]))
    turned = _Nested(torch.zeros(8, 7), torch.tensor([0, 4, 8]))
    assert not fixes._is_turned(straight)
    assert fixes._is_turned(turned)


class _Nested:
    is_nested = True

    def __init__(self, values: Any, offsets: Any) -> None:
        self._values, self._offsets = values, offsets

    def dim(self) -> int:
        return 3

    def offsets(self) -> Any:
        return self._offsets
