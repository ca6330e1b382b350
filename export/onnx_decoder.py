"""The language model in ONNX: `decoder.onnx` and `decoder.onnx.data`.

The graph comes from the model builder of onnxruntime-genai in float32, without embeddings and
output head; matrices are rounded here, because the builder's own roundings lose more.

Inputs: inputs_embeds [B, S, H], attention_mask int64 [B, P + S], position_ids int64 [3, B, S],
past_key_values.N.key and .value [B, heads, P, D]. Outputs: hidden_states [B, 1, H] of the
last token after the final norm, present.N.key and .value. All keys come before all values.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from proguard_edge.errors import ArtifactError
from proguard_edge.export.extras import need
from proguard_edge.export.gptq_layout import GptqCheckpoint
from proguard_edge.export.gptq_onnx import check_integers, take_over
from proguard_edge.export.graph import save
from proguard_edge.export.half import halve_graph
from proguard_edge.export.last_token import keep_last_token
from proguard_edge.export.nbits import quantize_graph
from proguard_edge.export.ranges import read_ranges
from proguard_edge.export.w8a8 import quantize_products

Precision = Literal["fp32", "fp16w", "int8", "int4", "w8a8"]
BITS = {"fp32": 0, "fp16w": 0, "int8": 8, "int4": 4, "w8a8": 0}
NAME = "decoder.onnx"


def export_decoder(
    checkpoint: Path,
    out: Path,
    precision: Precision = "int4",
    *,
    block_size: int = 32,
    accuracy_level: int = 4,
    compact_scales: bool = False,
    search: bool = True,
    context: int | None = None,
    gptq: Path | None = None,
    ranges: Path | None = None,
) -> tuple[Path, Path]:
    """Write the decoder of `checkpoint` into `out`; the two files. Equal inputs, equal bytes.

    See `finish_decoder` for the options. Needs disk for the model in float32 meanwhile, in `out`,
    and memory for the model in its own type, then for the rounded one.
    Raises ArtifactError: the checkpoint cannot be exported, or the extra is not installed.
    """
    if precision not in BITS:
        raise ArtifactError(f"no precision {precision!r}; known are {', '.join(BITS)}")
    with TemporaryDirectory(dir=out, prefix="__build") as scratch:
        source = build_graph(checkpoint, Path(scratch))
        return finish_decoder(
            source,
            out,
            precision,
            block_size=block_size,
            accuracy_level=accuracy_level,
            compact_scales=compact_scales,
            search=search,
            context=context,
            gptq=gptq,
            ranges=ranges,
        )


def build_graph(checkpoint: Path, out: Path) -> Path:
    """Run the model builder, in float32 and without the network; the graph's file in `out`.

    A process of its own: the builder changes `sys.path` and the working folder's cache, and its
    memory is given back when it ends. Raises ArtifactError with the builder's last words.
    """
    need("onnxruntime_genai", "torch", "transformers", "onnx_ir")
    options = ("exclude_embeds=true", "exclude_lm_head=true", "shared_embeddings=false")
    command = [
        *(sys.executable, "-m", "onnxruntime_genai.models.builder"),
        *("-i", str(checkpoint.resolve()), "-o", str(out.resolve())),
        *("-p", "fp32", "-e", "cpu", "-c", str(out.resolve() / "cache")),
        *("--extra_options", *options),
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = subprocess.run(
        command, env=environment, cwd=out, capture_output=True, text=True, check=False
    )
    built = out / "model.onnx"
    if done.returncode or not built.is_file():
        words = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise ArtifactError(f"the model builder failed (exit code {done.returncode}): {words}")
    return built


def finish_decoder(
    source: Path,
    out: Path,
    precision: Precision,
    *,
    block_size: int = 32,
    accuracy_level: int = 4,
    compact_scales: bool = False,
    search: bool = True,
    context: int | None = None,
    gptq: Path | None = None,
    ranges: Path | None = None,
) -> tuple[Path, Path]:
    """Round the float32 graph `source` and save it in `out`; the two files.

    fp16w stores float16 and computes in float32. int4 and int8 are asymmetric, in blocks of
    `block_size` (16 to 256). accuracy_level 4 lets the kernel round activations to 8 bits as well,
    0 does not. compact_scales stores float16 scales, 2 bytes less a block. search: see
    `round_blocks`.
    w8a8 multiplies integers (see `w8a8`); ranges: the file that `measure_ranges` wrote, which it
    needs. context cuts the rotary tables to that many positions.
    gptq: the folder of a GPTQ checkpoint whose integers are taken over instead, for int4; blocks
    are its groups, and what was written is read back and compared with it.
    Raises ArtifactError: see `quantize_graph` and `take_over`.
    """
    need("onnx_ir")
    import onnx_ir as ir

    if gptq is not None and precision != "int4":
        raise ArtifactError(f"GPTQ's integers make a decoder in int4, not in {precision}")
    if (ranges is None) != (precision != "w8a8"):
        raise ArtifactError("ranges of activations belong to a decoder in w8a8, and it needs them")
    model = ir.load(source)
    keep_last_token(model)
    integers = None if gptq is None else GptqCheckpoint(gptq)
    if integers is not None:
        take_over(model, integers, accuracy_level, compact_scales)
    elif ranges is not None:
        quantize_products(model, read_ranges(ranges))
    elif precision == "fp16w":
        halve_graph(model)
    elif bits := BITS[precision]:
        quantize_graph(model, bits, block_size, accuracy_level, compact_scales, search)
    if context is not None:
        _cut_rotary_tables(model.graph, context)
    written = save(model, out / NAME)
    if integers is not None:
        check_integers(written[0], integers)
    return written


def _cut_rotary_tables(graph: Any, context: int) -> None:
    import onnx_ir as ir

    for name in ("cos_cache", "sin_cache"):
        value = graph.initializers.get(name)
        if value is None:
            raise ArtifactError(f"the decoder's graph holds no {name}")
        table = value.const_value.numpy()
        value.const_value = ir.tensor(table[:context].copy(), name=name)
        value.shape = value.const_value.shape
