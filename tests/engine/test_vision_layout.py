import numpy as np
import pytest

from proguard_edge.engine.vision_layout import vision_layout
from proguard_edge.errors import EngineError

GRIDS = [
    [(1, 2, 2)],
    [(1, 8, 8)],
    [(1, 20, 28)],
    [(1, 36, 26)],
    [(1, 2, 60)],
    [(1, 16, 16), (1, 22, 30)],
    [(1, 4, 10), (1, 2, 2), (1, 18, 8)],
    [(2, 10, 12), (1, 6, 6)],
]


def segments(boundaries, count: int) -> np.ndarray:
    """Ids from 0 out of cumulative boundaries such as [0, 16, 24]."""
    return np.searchsorted(np.unique(boundaries)[1:], np.arange(count), side="right")


@pytest.mark.parametrize("grids", GRIDS)
def test_the_window_order_equals_that_of_transformers(grids):
    torch = pytest.importorskip("torch")
    vision = pytest.importorskip("transformers.vision_utils")
    index, windows = vision.get_vision_window_index(
        torch.tensor(grids), spatial_merge_size=2, window_size=112, patch_size=14
    )
    ours = vision_layout(grids)
    perm = (index.numpy()[:, None] * 4 + np.arange(4)).reshape(-1)
    np.testing.assert_array_equal(ours.perm, perm)
    np.testing.assert_array_equal(ours.inv, np.argsort(index.numpy()))
    np.testing.assert_array_equal(ours.window_ids, segments(windows.numpy(), perm.size))
    frames = vision.get_vision_cu_seqlens(torch.tensor(grids)).numpy()
    np.testing.assert_array_equal(ours.frame_ids, segments(frames, perm.size))


@pytest.mark.parametrize("head_dim", [16, 80])
@pytest.mark.parametrize("grids", GRIDS)
def test_the_rotary_tables_equal_those_of_transformers(grids, head_dim):
    torch = pytest.importorskip("torch")
    vision = pytest.importorskip("transformers.vision_utils")
    qwen = pytest.importorskip("transformers.models.qwen2_5_vl.modeling_qwen2_5_vl")
    configuration = pytest.importorskip("transformers.models.qwen2_5_vl.configuration_qwen2_5_vl")
    config = configuration.Qwen2_5_VLVisionConfig(hidden_size=head_dim * 2, num_heads=2)
    places = vision.get_vision_position_ids(torch.tensor(grids), 2)
    cos, sin = qwen.Qwen2_5_VLVisionRotaryEmbedding(config)(torch.zeros(1), places)
    ours = vision_layout(grids, head_dim=head_dim)
    assert ours.cos.dtype == ours.sin.dtype == np.float32
    assert ours.cos.shape == (len(places), head_dim)
    # One unit in the last place of an inverse frequency, times a coordinate below 64.
    tolerance = 64 * 2**-24
    np.testing.assert_allclose(ours.cos, cos.numpy()[ours.perm], rtol=0, atol=tolerance)
    np.testing.assert_allclose(ours.sin, sin.numpy()[ours.perm], rtol=0, atol=tolerance)


def test_merged_features_return_to_reading_order():
    layout = vision_layout([(1, 20, 28), (1, 6, 10)])
    blocks = np.arange(layout.perm.size // 4)
    in_window_order = (layout.perm // 4)[::4]
    assert (in_window_order != blocks).any()
    np.testing.assert_array_equal(in_window_order[layout.inv], blocks)


@pytest.mark.parametrize(
    ("grids", "settings"),
    [
        ([], {}),
        ([(1, 3, 4)], {}),
        ([(0, 4, 4)], {}),
        ([(1, 4, 4)], {"head_dim": 18}),
        ([(1, 4, 4)], {"window_size": 14}),
    ],
)
def test_grids_and_settings_that_do_not_divide_are_refused(grids, settings):
    with pytest.raises(EngineError):
        vision_layout(grids, **settings)
