"""The quality gate on real exports: a sound one passes, each broken one fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from artifacts import contents as contents_of
from broken import doubled_scales, swapped_image_tokens, zeroed_layer
from PIL import Image
from tiny import tiny_checkpoint
from variants import variant

from proguard_edge.artifact import Artifact
from proguard_edge.errors import InputError, QualityError
from proguard_edge.export.gate import Gate, judge, verdicts
from proguard_edge.export.onnx_artifact import export_onnx
from proguard_edge.export.quality import Limits, Side
from proguard_edge.export.stages import Source
from proguard_edge.export.transformers_artifact import export_transformers
from proguard_edge.starter import STARTER
from proguard_edge.train.contrast import contrast_rows
from proguard_edge.train.rows import Row

# Names that a random model makes up are seldom names.
CONTENTS = contents_of(free_names=False)
STRICT = Limits(min_agreement=0.99, max_kl=0.02, min_rows=20)


def quiet(_: str) -> None:
    pass


def measure(before: Path, after: Path, rows: list[Row], work: Path, limits: Limits = STRICT):
    sides = []
    for folder in (before, after):
        found = Artifact.open(folder)
        answers = verdicts(folder, rows, work, quiet)
        sides.append(Side(found.name, answers, found.calibration))
    return judge(rows, *sides, limits)


@pytest.fixture(scope="module")
def texts() -> list[Row]:
    rows = [Row.from_dict(raw) for raw in contrast_rows(0)]
    short = [row for row in rows if row.user and len(row.user) < 120 and row.image is None]
    return [
        row
        for label in ("safe", "unsafe")
        for row in [r for r in short if r.request_label == label][::40][:12]
    ]


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("work")


def test_the_starter_agrees_with_itself(texts, work):
    found = measure(STARTER, STARTER, texts, work)
    assert len({row.request_label for row in texts}) == 2
    assert found.failures == []
    assert found.record["parts"]["request"]["agreement"] == 1.0


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("zeroed", lambda out: zeroed_layer(STARTER, out, 12)),
        ("doubled", lambda out: doubled_scales(STARTER, out, "down_proj")),
    ],
)
def test_a_broken_decoder_fails(texts, work, tmp_path, name, fault):
    found = measure(STARTER, fault(tmp_path / name), texts, work)
    assert found.failures
    assert found.record["parts"]["request"]["kl"] > STRICT.max_kl
    found.write(tmp_path / "report")
    assert "Gate: **FAILED**" in (tmp_path / "report" / "quality.md").read_text()
    assert (tmp_path / "report" / "quality.png").stat().st_size > 5000


@pytest.fixture(scope="module")
def seeing(tmp_path_factory) -> Path:
    """A random checkpoint whose verdicts depend on what it sees: its weights are made larger."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    folder = tiny_checkpoint(tmp_path_factory.mktemp("seeing") / "tiny", seed=3)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in name:
                parameter.mul_(6)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Row]:
    folder = tmp_path_factory.mktemp("pictures")
    rows = []
    for number in range(24):
        rng = np.random.default_rng(number)
        small = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        path = folder / f"{number}.png"
        Image.fromarray(small).resize((196, 168), Image.Resampling.NEAREST).save(path)
        label = "unsafe" if number % 2 else "safe"
        rows.append(
            Row(f"p{number}", "own", "none", "What is this?", None, path, label, None, None)
        )
    return rows


@pytest.fixture(scope="module")
def sides(seeing, pictures, work, tmp_path_factory) -> tuple[Path, Path]:
    """The checkpoint on the reference engine and in ONNX, the threshold amid its verdicts."""
    folder = tmp_path_factory.mktemp("sides")
    export_transformers(seeing, folder / "raw-hf", CONTENTS)
    export_onnx(seeing, folder / "raw", CONTENTS, precision="fp32", embeddings="float32")
    answers = verdicts(folder / "raw-hf", pictures, work, quiet)
    assert None not in answers.values(), answers
    logits = np.sort([Side("raw", answers).logit(row, "request") for row in pictures])
    # In the widest gap of the middle half, so that no verdict hangs on the last digit.
    middle = logits[len(logits) // 4 : -(len(logits) // 4)]
    gap = int(np.diff(middle).argmax())
    bias, width = float(middle[gap : gap + 2].mean()), float(logits.std())
    own = {"request": {"bias": bias, "temperature": width}}
    return (
        variant(folder / "raw-hf", folder / "hf", calibration=own),
        variant(folder / "raw", folder / "onnx", calibration=own),
    )


def test_a_sound_export_of_a_seeing_model_passes(sides, pictures, work):
    found = measure(*sides, pictures, work)
    assert found.failures == []
    assert found.record["parts"]["request"]["kl"] < 1e-4
    scores = [change.before for change in found.changes["request"]]
    assert np.std(scores) > 0.1, "verdicts that do not depend on the picture prove nothing"


def test_swapped_image_tokens_fail(sides, pictures, work, tmp_path):
    broken = swapped_image_tokens(sides[1], tmp_path / "swapped")
    assert measure(sides[0], broken, pictures, work).failures


def test_rows_that_share_an_id_and_rows_it_cannot_read_are_errors(seeing, pictures, texts, work):
    with pytest.raises(InputError, match="share ids"):
        verdicts(STARTER, [texts[0], texts[0]], work, quiet)
    text_only = Source(seeing, contents_of(modalities=("text",)))
    with pytest.raises(QualityError, match="no row"):
        Gate(pictures, STRICT).measure(STARTER, text_only, work, quiet)
