"""The shared-prefix forward pass of training against the model's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from proguard_edge.train.prefix_lm import PrefixLM  # noqa: E402


@pytest.fixture(scope="module")
def model(tiny: Path) -> Any:
    from transformers import Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny, dtype=torch.float32).eval()


def test_rows_behind_a_shared_prefix_get_the_hidden_states_of_the_whole_prompt(model: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    prefix = torch.randint(10, 200, (37,), generator=generator)
    rows = torch.randint(10, 200, (3, 21), generator=generator)
    lm = PrefixLM(model)
    with torch.no_grad():
        whole = torch.cat((prefix.expand(3, -1), rows), 1)
        expected = model.model.language_model(input_ids=whole).last_hidden_state[:, 37:]
        found = lm.hidden(rows, lm.prefix(prefix))
    assert expected.std() > 0.3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_padding_behind_a_row_does_not_change_it(model: Any) -> None:
    lm = PrefixLM(model)
    prefix = lm.prefix(torch.arange(20, 40))
    row = torch.arange(50, 62)[None]
    padded = torch.cat((row, torch.zeros(1, 5, dtype=torch.long)), 1)
    with torch.no_grad():
        alone, long = lm.hidden(row, prefix), lm.hidden(padded, prefix)
    torch.testing.assert_close(long[:, :12], alone, rtol=0, atol=1e-5)


def test_frozen_layers_get_no_gradient_and_the_others_do(model: Any) -> None:
    lm = PrefixLM(model, frozen_layers=1)
    lm.hidden(torch.arange(50, 62)[None], lm.prefix(torch.arange(20, 40))).sum().backward()
    gradients = [layer.mlp.up_proj.weight.grad for layer in lm.decoder.layers]
    assert gradients[0] is None
    assert float(gradients[1].abs().max()) > 0
