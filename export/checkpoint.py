"""A checkpoint folder: what its architecture is, and rows of its tables without loading it."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proguard_edge.artifact.format import file_digest
from proguard_edge.errors import ArtifactError
from proguard_edge.export.extras import need
from proguard_edge.image import ImageProcessor

ARCHITECTURE = "Qwen2_5_VLForConditionalGeneration"
# Names in checkpoints of transformers 5, of transformers 4.5x, and of the first release.
EMBEDDINGS = (
    "model.language_model.embed_tokens.weight",
    "language_model.model.embed_tokens.weight",
    "model.embed_tokens.weight",
)
WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")
GENERATION = "generation_config.json"
REWRITTEN = (
    "config.json",
    GENERATION,
    "model.safetensors.index.json",
    "training.json",
)
HEAD = ("lm_head.weight", "language_model.lm_head.weight")


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face folder with `config.json`, safetensors files and `tokenizer.json`.

    Raises ArtifactError on construction when it is not a Qwen2.5-VL one.
    """

    folder: Path

    def __post_init__(self) -> None:
        raw = read_json(self.folder / "config.json")
        names = raw.get("architectures") or ["none"]
        if names != [ARCHITECTURE]:
            also = "; Qwen3-VL is not supported yet" if "Qwen3" in str(names) else ""
            raise ArtifactError(
                f"{self.folder}: architecture {', '.join(map(str, names))}; "
                f"only {ARCHITECTURE} can be exported{also}"
            )
        if raw.get("quantization_config"):
            raise ArtifactError(
                f"{self.folder}: its weights are quantized already; export the original checkpoint"
            )
        if not (self.folder / "tokenizer.json").is_file():
            raise ArtifactError(f"{self.folder}: no tokenizer.json")

    @cached_property
    def config(self) -> Any:
        """transformers' configuration, with its defaults filled in."""
        need("transformers")
        from transformers import Qwen2_5_VLConfig

        config: Any = Qwen2_5_VLConfig.from_pretrained(self.folder)
        if config.text_config.use_sliding_window:
            raise ArtifactError(f"{self.folder}: sliding-window attention cannot be exported")
        return config

    @property
    def tied(self) -> bool:
        """Whether the output head is the embedding table."""
        return bool(self.config.tie_word_embeddings)

    @cached_property
    def weight_files(self) -> tuple[Path, ...]:
        """The safetensors files in the order of their names. Raises ArtifactError for none."""
        index = self.folder / "model.safetensors.index.json"
        if index.is_file():
            names = sorted(set(read_json(index).get("weight_map", {}).values()))
        else:
            names = ["model.safetensors"]
        files = tuple(self.folder / str(name) for name in names)
        for file in files:
            if not file.is_file() or file.parent != self.folder:
                raise ArtifactError(f"{file}: no such weights; only safetensors can be exported")
        return files

    def embeddings(self) -> WeightRows:
        """The embedding table, [V, H]."""
        return self._rows(*EMBEDDINGS)

    def head(self) -> WeightRows | None:
        """The output head [V, H], or None where the embedding table serves as head."""
        return None if self.tied else self._rows(*HEAD)

    def tensor(self, *names: str) -> NDArray[np.float32]:
        """The weights under the first of `names` that exists, as float32. Raises ArtifactError."""
        from safetensors import safe_open

        name = self._find(*names)
        with safe_open(self._places[name], "pt") as file:
            array: NDArray[np.float32] = file.get_tensor(name).float().numpy()
        return array

    def digest(self) -> str:
        """sha256 (hex) over names and digests of configuration, tokenizer and weight files."""
        state = hashlib.sha256()
        extra = ("config.json", "tokenizer.json", "preprocessor_config.json")
        for path in (*(self.folder / name for name in extra), *self.weight_files):
            if path.is_file():
                state.update(f"{path.name} {file_digest(path)}\n".encode())
        return state.hexdigest()

    @cached_property
    def _places(self) -> dict[str, Path]:
        """The file of every tensor."""
        need("safetensors", "torch")
        from safetensors import safe_open

        places = {}
        for path in self.weight_files:
            try:
                with safe_open(path, "pt") as file:
                    places.update(dict.fromkeys(file.keys(), path))
            except Exception as error:  # noqa: BLE001 - the library's errors have no common base
                raise ArtifactError(f"{path}: not a safetensors file: {error}") from None
        return places

    def _find(self, *names: str) -> str:
        for name in names:
            if name in self._places:
                return name
        raise ArtifactError(f"{self.folder}: no weights named {names[0]}")

    def _rows(self, *names: str) -> WeightRows:
        name = self._find(*names)
        return WeightRows(self._places[name], name)


def copy_companions(folder: Path, out: Path) -> None:
    """Copy what stands beside the weights of a checkpoint folder: tokenizer, processor, licences.

    Not what whoever writes new weights writes anew: configuration, index, record of the training.
    """
    for path in folder.iterdir():
        if path.is_file() and path.suffix not in WEIGHTS and path.name not in REWRITTEN:
            shutil.copyfile(path, out / path.name)


def copy_generation(folder: Path, out: Path) -> None:
    """Copy `generation_config.json`, where there is one: the model stays what it was."""
    if (folder / GENERATION).is_file():
        shutil.copyfile(folder / GENERATION, out / GENERATION)


def image_processor(folder: Path) -> ImageProcessor | None:
    """The image processor of a checkpoint folder, None where it has none. Raises ArtifactError."""
    settings = folder / "preprocessor_config.json"
    return ImageProcessor.from_hf(read_json(settings)) if settings.is_file() else None


class WeightRows:
    """Rows of one matrix in a safetensors file, read when they are asked for."""

    def __init__(self, file: Path, name: str) -> None:
        from safetensors import safe_open

        opened: Any = safe_open(file, "pt")
        self._rows = opened.get_slice(name)
        rows, width = self._rows.get_shape()
        self.shape = (int(rows), int(width))

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """float32 [N, H], also of bfloat16 weights, which numpy does not know."""
        array: NDArray[np.float32] = self._rows[rows].float().numpy()
        return array


def describe(checkpoint: Checkpoint | Path, *, vision: bool = True) -> dict[str, Any]:
    """The manifest's `model`: what the engine must know besides the weights.

    `vision` holds the keyword arguments of `vision_layout`; without it the model reads text only.
    Raises ArtifactError when the folder is not a checkpoint that can be exported.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint(checkpoint)
    text = checkpoint.config.text_config
    found = {
        "architecture": ARCHITECTURE,
        "layers": int(text.num_hidden_layers),
        "kv_heads": int(text.num_key_value_heads),
        "head_dim": int(
            getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        ),
        "hidden": int(text.hidden_size),
        "vocab": int(text.vocab_size),
        "context": int(text.max_position_embeddings),
        "tied": checkpoint.tied,
    }
    if vision:
        tower = checkpoint.config.vision_config
        found["image_token_id"] = int(checkpoint.config.image_token_id)
        found["vision"] = {
            "merge_size": int(tower.spatial_merge_size),
            "window_size": int(tower.window_size),
            "patch_size": int(tower.patch_size),
            "head_dim": int(tower.hidden_size // tower.num_heads),
        }
    return found


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file. Raises ArtifactError: missing, malformed, or not an object."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise ArtifactError(f"{path}: not valid JSON") from None
    if not isinstance(content, dict):
        raise ArtifactError(f"{path}: not a JSON object")
    return content
