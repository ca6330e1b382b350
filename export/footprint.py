"""What the released models take while they judge, computed from their shapes, as Markdown tables.

    python -m proguard_edge.export.footprint        # the tables of docs/workstation.md

Weights and keys and values are exact up to norms and biases (below 0.2 %). Activations are an
estimate: what one layer holds at a time. Memory of the ONNX engine is `doctor`'s estimate, whose
factors were measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from proguard_edge.doctor.memory import BASE, BASE_TORCH, DECODER, FLOAT, KV_STEP, VISION
from proguard_edge.export.recipe import Recipe, recipe_names
from proguard_edge.export.sizes import (
    BYTES,
    GB,
    GPTQ_BYTES,
    PROGUARD,
    SHAPES,
    TOWER,
    need,
    onnx_parts,
)

# The reference wording with the full policy, and room for a request and its answer.
PREFIX_TOKENS, CONTENT_TOKENS = 2094, 978
TOKENS = PREFIX_TOKENS + CONTENT_TOKENS
# Of a picture of 448 x 448 pixels.
PATCHES = (448 // 14) ** 2
HALF = 2.0
# Context, kernels and PyTorch's allocator on a GPU: assumed, not measured here.
CUDA = 1.0 * GB
# 4 bits in blocks of 32 that share a float32 and four bits.
BITS4 = 4 / 8 + (4 + 4 / 8) / 32
CARDS = (8, 12, 16, 24, 48, 80)
MODELS = tuple(PROGUARD)


@dataclass(frozen=True)
class Route:
    """A way to judge. recipe: what makes its artifact. place: whose memory it takes.
    engine: what `--engine` is, or what serves."""

    name: str
    recipe: str
    place: str
    engine: str


ROUTES = (
    Route("ONNX, 4 bits", "onnx-int4", "RAM", "onnx"),
    Route("ONNX, 8 bits (VNNI)", "onnx-w8a8", "RAM", "onnx"),
    Route("transformers, float32", "transformers", "RAM", "transformers"),
    Route("transformers, bfloat16", "transformers", "VRAM", "cuda"),
    Route("GPTQ on vLLM", "gptq-int4", "VRAM", "server"),
    Route("TensorRT-LLM", "trtllm-int4", "VRAM", "server"),
)


def kv_bytes(model: str, tokens: int, width: float = HALF) -> float:
    """Bytes of keys and values of so many tokens. width: bytes of a number."""
    shape = SHAPES[model]
    head = shape["hidden_size"] // shape["num_attention_heads"]
    return 2.0 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * head * tokens * width


def activation_bytes(model: str, tokens: int, patches: int, width: float = HALF) -> float:
    """Estimate of what a prefill holds beside weights and keys: one layer's gate, up, residual,
    attention input and output, queries, keys and values; or one block of the vision tower, if that
    is more. Attention is computed without its whole matrix."""
    shape = SHAPES[model]
    hidden, head = shape["hidden_size"], shape["hidden_size"] // shape["num_attention_heads"]
    heads = shape["num_attention_heads"] + 2 * shape["num_key_value_heads"]
    decoder = tokens * (2 * shape["intermediate_size"] + 4 * hidden + heads * head)
    vision = patches * (2 * TOWER["intermediate_size"] + 7 * TOWER["hidden_size"])
    return width * max(decoder, vision)


def judging(route: Route, model: str) -> tuple[float, float, float, float]:
    """Bytes of weights, of keys and values, of activations, and of the rest, of one process that
    judges one request of TOKENS tokens."""
    weights = PROGUARD[model]
    width = FLOAT if route.place == "RAM" else HALF
    kv = kv_bytes(model, TOKENS, width)
    activations = activation_bytes(model, TOKENS, PATCHES, width)
    if route.engine == "onnx":
        # The state of the prefix stands beside the buffer, and a reasoning or free name needs the
        # whole output head as float32.
        kv = kv_bytes(model, 2 * PREFIX_TOKENS + 2 * KV_STEP, width)
        recipe = Recipe.load(route.recipe)
        decoder, _, vision = onnx_parts(recipe.step(recipe.artifact), weights, weights.vision)
        head = FLOAT * float(weights.table)
        return DECODER * decoder + VISION * vision, kv, activations, head + BASE
    if route.engine == "transformers":
        return FLOAT * float(weights.total), kv, activations, BASE_TORCH
    return kept(route.recipe, model), kv, activations, CUDA


def kept(recipe: str, model: str) -> float:
    """Bytes on disk of the artifact that a recipe makes."""
    found = Recipe.load(recipe)
    return need(found.step(found.artifact), PROGUARD[model]).kept


def card(total: float) -> str:
    """The smallest usual card that leaves a tenth of itself free."""
    return next(f"{size} GB" for size in CARDS if total <= 0.9 * size * GB)


def parts_table() -> str:
    """Weights by part, and bytes by precision; only matrices of the decoder become 4 bits."""
    few = [BITS4, GPTQ_BYTES]
    rows = []
    for model, of in PROGUARD.items():
        parts = {"decoder": of.decoder, "embeddings": of.table, "output head": of.head}
        for name, count in {**parts, "vision tower": of.vision, "all": of.total}.items():
            if not count:
                rows.append([f"{model} {name}", "the embeddings serve", *["–"] * 5])
                continue
            sizes = [_gb(count * each) for each in (4.0, HALF, BYTES["int8"])]
            sizes += [_gb(count * each) if name == "decoder" else "–" for each in few]
            rows.append([f"{model} {name}", f"{count / 1e9:.3f}", *sizes])
    head = [
        "part",
        "10⁹ weights",
        "float32",
        "bfloat16",
        "8 bits",
        "4 bits (ONNX)",
        "4 bits (GPTQ)",
    ]
    return _table(head, rows)


def disk_table() -> str:
    """Recipes: the artifact on disk, and the most memory that a step of making it takes."""
    rows = []
    for recipe in map(Recipe.load, recipe_names()):
        row = [f"`{recipe.name}`"]
        for model in MODELS:
            weights = PROGUARD[model]
            peak = max(need(step, weights).memory for step in recipe.steps)
            row += [_gb(kept(recipe.name, model)), _gb(peak)]
        rows.append(row)
    head = [text for model in MODELS for text in (f"{model} on disk", f"{model} memory to make")]
    return _table(["recipe", *head], rows)


def kv_table() -> str:
    """Keys and values of 1,000 tokens."""
    rows = [
        [model, *(f"{kv_bytes(model, 1000, width) / 1e6:.1f} MB" for width in (HALF, FLOAT))]
        for model in MODELS
    ]
    return _table(["model", "bfloat16 (GPU)", "float32 (ONNX engine)"], rows)


def judging_table() -> str:
    """Every route: what a process takes that judges one request, and the card that has room."""
    rows = []
    for route in ROUTES:
        for model in MODELS:
            found = judging(route, model)
            fits = card(sum(found)) if route.place == "VRAM" else "–"
            name = [f"{model}, {route.name}", route.place]
            rows.append([*name, *map(_gb, found), _gb(sum(found)), fits])
    head = ["route", "of", "weights", "keys, values", "activations", "rest", "together", "card"]
    return _table(head, rows)


TABLES = {"parts": parts_table, "disk": disk_table, "kv": kv_table, "judging": judging_table}


def _gb(count: float) -> str:
    return f"{count / GB:.2f} GB"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(line)} |" for line in [head, *rows]]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def main() -> None:
    """Print every table under its name."""
    for name, table in TABLES.items():
        print(f"{name}\n\n{table()}\n")


if __name__ == "__main__":
    main()
