"""Training rounds weights exactly as the exporter does."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from proguard_edge.export.rounding import round_blocks  # noqa: E402
from proguard_edge.train.fake_quant import BLOCK, fake_quantize, rounded  # noqa: E402


@pytest.mark.parametrize("scale", [1e-6, 0.05, 3.0])
def test_rounding_in_training_is_the_rounding_of_the_export(scale: float) -> None:
    weight = np.random.default_rng(0).standard_t(4, (64, 96)).astype(np.float32) * scale
    weight[3] = np.abs(weight[3])
    weight[4, :BLOCK] = 0
    shipped = round_blocks(weight.reshape(-1, BLOCK), 4, half_scales=True, search=False)
    trained = fake_quantize(torch.from_numpy(weight)).numpy()
    np.testing.assert_array_equal(trained.reshape(-1, BLOCK), shipped.weights())


def test_the_optimizer_sees_unrounded_weights_and_the_gradient_of_the_rounded() -> None:
    layer = torch.nn.Linear(BLOCK, 4, bias=True)
    before = layer.weight.detach().clone()
    x = torch.randn(5, BLOCK, generator=torch.Generator().manual_seed(0))
    with rounded(list(layer.parameters())):
        assert not torch.equal(layer.weight, before)
        out = layer(x)
        torch.testing.assert_close(out, x @ fake_quantize(before).T + layer.bias)
        out.square().sum().backward()
    assert torch.equal(layer.weight, before)
    expected = 2 * out.detach().T @ x
    torch.testing.assert_close(layer.weight.grad, expected)
