import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from proguard_edge.engine.positions import rope_positions
from proguard_edge.errors import EngineError

IMAGE = 9


def prompt(*parts: int | tuple[int, int, int]) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Token ids and grids; a number stands for that many text tokens, a grid for its image."""
    ids: list[int] = []
    for part in parts:
        image = isinstance(part, tuple)
        ids += [IMAGE] * (part[1] * part[2] // 4) if image else [1] * part
    return np.array(ids), [part for part in parts if isinstance(part, tuple)]


def reference(ids: np.ndarray, grids: list[tuple[int, int, int]]) -> tuple[np.ndarray, int]:
    torch = pytest.importorskip("torch")
    qwen = pytest.importorskip("transformers.models.qwen2_5_vl.modeling_qwen2_5_vl")
    vision = SimpleNamespace(spatial_merge_size=2, tokens_per_second=2)
    model = SimpleNamespace(config=SimpleNamespace(vision_config=vision))
    model.get_vision_position_ids = qwen.Qwen2_5_VLModel.get_vision_position_ids.__get__(model)
    tokens = torch.tensor(ids)[None]
    positions, delta = qwen.Qwen2_5_VLModel.get_rope_index(
        model,
        tokens,
        (tokens == IMAGE).int(),
        image_grid_thw=torch.tensor(grids) if grids else None,
    )
    return positions[:, 0].numpy(), int(delta[0]) + len(ids)


PROMPTS = [
    (7,),
    (5, (1, 4, 6), 3),
    (5, (1, 20, 28), 1, (1, 6, 4), 8),
    ((1, 8, 4), 6),
    (6, (1, 4, 8)),
    ((1, 2, 2),),
    (3, (1, 2, 40), 2, (1, 40, 2), 2, (1, 2, 2), 1),
]


@pytest.mark.parametrize("parts", PROMPTS)
def test_positions_equal_those_of_transformers(parts):
    ids, grids = prompt(*parts)
    theirs, following = reference(ids, grids)
    ours, next_position = rope_positions(ids, IMAGE, grids, 2)
    assert ours.dtype == np.int64
    np.testing.assert_array_equal(ours, theirs)
    assert next_position == following


@pytest.mark.parametrize("parts", PROMPTS)
def test_prefix_and_content_in_two_calls_equal_one_call(parts):
    ids, grids = prompt(4, *parts)
    whole, end = rope_positions(ids, IMAGE, grids, 2)
    prefix, middle = rope_positions(ids[:4], IMAGE, [], 2)
    content, end_of_two = rope_positions(ids[4:], IMAGE, grids, 2, start=middle)
    np.testing.assert_array_equal(np.concatenate([prefix, content], axis=1), whole)
    assert end_of_two == end


def test_what_follows_an_image_in_a_second_call_continues_after_its_longer_side():
    ids, grids = prompt(5, (1, 4, 12), 3)
    whole, end = rope_positions(ids, IMAGE, grids, 2)
    cut = 5 + 12
    first, middle = rope_positions(ids[:cut], IMAGE, grids, 2)
    second, end_of_two = rope_positions(ids[cut:], IMAGE, [], 2, start=middle)
    assert middle == 5 + 6  # the longer side has 12 patches, 6 blocks
    np.testing.assert_array_equal(np.concatenate([first, second], axis=1), whole)
    assert end_of_two == end


def test_no_tokens_have_no_positions():
    positions, next_position = rope_positions([], IMAGE, [], 2, start=11)
    assert positions.shape == (3, 0)
    assert next_position == 11


@pytest.mark.parametrize(
    ("ids", "grids"),
    [
        ([1, 9, 1], []),
        ([1, 1], [(1, 2, 2)]),
        ([9, 9, 1], [(1, 2, 2)]),
        ([9], [(1, 2, 4)]),
        ([9, 1, 9], [(1, 2, 4)]),
        ([9, 9], [(2, 2, 2)]),
        ([9], [(1, 3, 2)]),
        ([9], [(1, 0, 0)]),
        ([[9]], [(1, 2, 2)]),
    ],
)
def test_tokens_that_do_not_match_the_grids_are_refused(ids, grids):
    with pytest.raises(EngineError):
        rope_positions(ids, IMAGE, grids, 2)


def test_positions_do_not_import_torch():
    code = "import sys, proguard_edge.engine.positions as p; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
