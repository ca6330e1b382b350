"""Turn the trained starter checkpoint into the artifact that ships, and calibrate it as shipped.

    python -m proguard_edge.train.ship --checkpoint runs/starter/checkpoint --data ../shared/data \\
        --out proguard_edge/starter/artifact

Quantizes, then fits the score calibration and the bounds on missed rows on held-out rows of train
with the quantized engine: rounding moves the threshold more than it harms the ranking.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from proguard_edge.calibration.fit import RATES, bounds, calibrate, judged_rows, write
from proguard_edge.export.folder import Contents
from proguard_edge.export.onnx_artifact import export_onnx
from proguard_edge.policy import Policy
from proguard_edge.template import Template
from proguard_edge.train.contrast import contrast_rows, template_of
from proguard_edge.train.examples import select_rows
from proguard_edge.train.mixture import MAX_CONTENT
from proguard_edge.train.rows import Row, read_folder

CONTEXT = 2048
# A wrong "safe" costs users more than a false alarm; on responses false alarms are many already.
MISS_COST = {"request": 2.0, "response": 1.0}
# Sources of one class are easy, and say little about where the threshold belongs.
CALIBRATION_CAPS = {
    "alpaca": 60,
    "davidson": 120,
    "gpteacher_roleplay": 10,
    "gsm8k": 5,
    "imagenet_sample": 0,
    "med_safety": 10,
    "safety_tuned_llamas": 20,
}


def contents(training: dict[str, Any]) -> Contents:
    """What the starter says of itself."""
    return Contents(
        policy=Policy.default(),
        template=Template.named("compact"),
        name="proguard-edge-starter",
        languages=("en",),
        modes=("verdict",),
        modalities=("text",),
        free_names=False,
        policy_is_fixed=True,
        limits={"window_tokens": MAX_CONTENT, "overlap_tokens": MAX_CONTENT // 4},
        extra={
            "licence": "CC-BY-NC-4.0 (some training rows are); base weights Apache-2.0",
            "training": training,
        },
    )


def held_out_rows(data: Path, seed: int = 0) -> list[Row]:
    """Rows of train that no training step saw, drawn so that no source dominates.

    Of our contrast rows only those whose template gives no other row: the siblings of the rest
    were trained on, and would flatter the fit.
    """
    contrast = contrast_rows(seed)
    siblings = Counter(map(template_of, contrast))
    own = [Row.from_dict(r) for r in contrast if siblings[template_of(r)] == 1]
    rows = [*read_folder(data / "train"), *own]
    kept = [r for r in rows if r.in_held_out() and r.user and r.image is None]
    return select_rows(kept, CALIBRATION_CAPS, seed)


def main() -> None:
    """Command line; see the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--precision", default="int4", choices=("fp32", "int8", "int4"))
    args = parser.parse_args()
    export_onnx(
        args.checkpoint,
        args.out,
        contents(json.loads((args.checkpoint / "training.json").read_text())),
        precision=args.precision,
        embeddings="float32" if args.precision == "fp32" else "int8",
        context=CONTEXT,
        force=True,
        report=print,
        **({"compact_scales": True, "search": False} if args.precision == "int4" else {}),
    )
    rows = held_out_rows(args.data)
    judged = judged_rows(args.out, rows)
    calibration = calibrate(judged, {}, MISS_COST)
    artifact = write(args.out, calibration, bounds(judged, {}, calibration, RATES, print))
    print(f"calibrated on {len(rows)} held-out rows: {calibration}")
    print(f"{artifact.folder}: {artifact.digest}")


if __name__ == "__main__":
    main()
