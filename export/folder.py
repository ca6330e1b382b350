"""An artifact's folder while it is made, and the files that every engine's artifact holds."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from proguard_edge.artifact import Artifact, Calibration, write_artifact
from proguard_edge.artifact.format import MANIFEST
from proguard_edge.errors import ArtifactError
from proguard_edge.export.checkpoint import Checkpoint, describe, read_json
from proguard_edge.export.extras import versions
from proguard_edge.image import ImageProcessor
from proguard_edge.policy import Policy
from proguard_edge.prompt import PromptEncoder
from proguard_edge.template import KINDS, Template

LIMITS = {"window_tokens": 512, "overlap_tokens": 64, "reason_tokens": 512}
LICENCES = ("NOTICE*", "LICENSE*", "LICENCE*")
LIBRARIES = ("torch", "transformers", "onnx-ir", "onnxruntime", "onnxruntime-genai")


@dataclass(frozen=True)
class Contents:
    """What an artifact says and does, whatever engine runs it.

    modalities: of "text", "text-image", "image"; the last two need a vision tower. calibration:
    by part, "request" or "response". response_line: "given" or "always", see `Artifact`.
    extra: further fields of the manifest, such as licences and
    training provenance.
    """

    policy: Policy
    template: Template
    name: str
    languages: Sequence[str] = ("en",)
    modes: Sequence[str] = ("verdict", "reason")
    modalities: Sequence[str] = ("text", "text-image", "image")
    calibration: Mapping[str, Calibration] = field(default_factory=dict)
    free_names: bool = True
    policy_is_fixed: bool = False
    response_line: str = "given"
    limits: Mapping[str, int] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def vision(self) -> bool:
        """Whether it reads images."""
        return set(self.modalities) != {"text"}

    def digest(self) -> str:
        """sha256 (hex) over everything that it says."""
        fields = asdict(replace(self, policy=None, template=None))  # type: ignore[arg-type]
        fields |= {"policy": self.policy.digest(), "template": self.template.source}
        return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()

    @classmethod
    def like(cls, artifact: Artifact, name: str) -> Contents:
        """What another artifact says and does, without what belongs to its weights: calibration,
        licence, provenance. Raises ArtifactError, PolicyError."""
        return cls(
            policy=Policy.load(artifact.path("policy.yaml")),
            template=Template.load(artifact.path("template.jinja")),
            name=name,
            languages=artifact.languages,
            modes=artifact.modes,
            modalities=artifact.modalities,
            free_names=artifact.free_names,
            policy_is_fixed=artifact.policy_is_fixed,
            response_line=artifact.response_line,
            limits=artifact.limits,
        )


def link_or_copy(source: Path, target: Path) -> None:
    """The same bytes at `target`: a hard link where the file system can, else a copy."""
    try:
        # The resolved file: a checkpoint in a hub's cache is made of symbolic links.
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


@contextmanager
def staged(out: Path, force: bool) -> Iterator[Path]:
    """A new folder beside `out` that takes its name when the block ends without an error.

    Raises ArtifactError when `out` is not empty, and for errors of the file system, also inside
    the block. With `force` an artifact in `out` is replaced, but nothing else is.
    """
    out = out.absolute()
    _check_target(out, force)
    work = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        yield work
        work.chmod(0o755)
        if out.exists():
            old = Path(mkdtemp(dir=out.parent, prefix=f".{out.name}.old."))
            out.rename(old / out.name)
            work.rename(out)
            shutil.rmtree(old)
        else:
            work.rename(out)
    except OSError as error:
        raise ArtifactError(f"{out}: cannot be made: {error.strerror or error}") from None
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def _check_target(out: Path, force: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise ArtifactError(f"{out}: is a file; an artifact is a folder")
    if not any(out.iterdir()):
        return
    if not force:
        raise ArtifactError(f"{out}: is not empty; --force replaces an artifact")
    if not (out / MANIFEST).is_file():
        raise ArtifactError(f"{out}: is not empty and not an artifact: not replaced")


def write_common(folder: Path, checkpoint: Checkpoint, contents: Contents) -> None:
    """Write tokenizer, policy, template, image processor settings and NOTICE.

    Raises ArtifactError or PolicyError when they do not fit together.
    """
    (folder / "policy.yaml").write_text(contents.policy.to_yaml(), encoding="utf-8", newline="\n")
    template = contents.template.source
    (folder / "template.jinja").write_text(template, encoding="utf-8", newline="")
    tokenizer = read_json(checkpoint.folder / "tokenizer.json")
    # Without white space: a third smaller, and as much faster to read at every start.
    text = json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(text, encoding="utf-8", newline="\n")
    if contents.vision:
        settings = read_json(checkpoint.folder / "preprocessor_config.json")
        processor = ImageProcessor.from_hf(settings).to_json()
        (folder / "processor.json").write_text(json.dumps(processor, indent=1) + "\n")
    (folder / "NOTICE").write_text(_notice(checkpoint, contents), encoding="utf-8", newline="\n")
    _check_prompts(folder / "tokenizer.json", checkpoint, contents)


def finish(folder: Path, checkpoint: Checkpoint, contents: Contents, **engine: Any) -> Artifact:
    """Write the manifest; `engine` holds its fields engine, precision, and additions to model.

    Raises ArtifactError when `contents.extra` names a field that the export itself fills.
    """
    model = describe(checkpoint, vision=contents.vision) | engine.pop("model", {})
    fields = {
        **engine,
        "name": contents.name,
        "model": model,
        "modalities": list(contents.modalities),
        "modes": list(contents.modes),
        "languages": list(contents.languages),
        "calibration": {
            part: {"bias": c.bias, "temperature": c.temperature}
            for part, c in contents.calibration.items()
        },
        "limits": {**LIMITS, **contents.limits},
        "free_names": contents.free_names,
        "policy_is_fixed": contents.policy_is_fixed,
        "response_line": contents.response_line,
        "source": {"name": checkpoint.folder.resolve().name, "sha256": checkpoint.digest()},
        "versions": versions(*LIBRARIES),
    }
    if taken := sorted(set(fields) & set(contents.extra)):
        raise ArtifactError(f"the export itself fills {', '.join(taken)}")
    return write_artifact(folder, {**contents.extra, **fields})


def _check_prompts(tokenizer: Path, checkpoint: Checkpoint, contents: Contents) -> None:
    encoder = PromptEncoder(tokenizer, contents.template, contents.policy)
    for kind in KINDS:
        if kind.modality in contents.modalities and kind.mode in contents.modes:
            encoder.prefix(kind.modality, kind.mode, kind.has_response)
    expected = checkpoint.config.image_token_id
    if contents.vision and encoder.image_tokens.pad_id != expected:
        raise ArtifactError(
            f"{checkpoint.folder}: the image token is {expected} in config.json, "
            f"{encoder.image_tokens.pad_id} in tokenizer.json"
        )


def _notice(checkpoint: Checkpoint, contents: Contents) -> str:
    parts = [f"{contents.name}\n\nMade by proguard-edge from {checkpoint.folder.resolve().name}.\n"]
    for pattern in LICENCES:
        for path in sorted(checkpoint.folder.glob(pattern)):
            text = path.read_text(encoding="utf-8", errors="replace")
            parts.append(f"--- {path.name} of the checkpoint ---\n{text.rstrip()}\n")
    return "\n".join(parts)
