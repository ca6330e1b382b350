"""`proguard-edge/1`: `artifact.json` and the files beside it.

`artifact.json` names every file with its size and sha256; the sha256 of `artifact.json` itself is
the artifact's digest, so it stands for all bytes of the folder. Paths are relative and stay inside.
`artifact.sig`, where there is one, is a signature on `artifact.json`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from proguard_edge.errors import ArtifactError

FORMAT = "proguard-edge/1"
MANIFEST, SIGNATURE = "artifact.json", "artifact.sig"
MAX_MANIFEST_BYTES = 4 << 20
MODALITIES = ("text", "text-image", "image")
MODES = ("verdict", "reason")
PARTS = ("request", "response")
# Nearer to 0 or 1 a threshold says "all" or "none", and has no logit.
SMALLEST = 1e-9
# A score can round to exactly 0 or 1, which no logit has.
ROUNDED = 1e-12

_CATEGORY = re.compile(r"C\d+(S\d+)?")

# What reading a manifest of another shape can raise; 1e999 as a size is an OverflowError.
_MALFORMED = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)


@dataclass(frozen=True)
class Calibration:
    """Turns a label's logit difference d (unsafe − safe) into a probability of "unsafe".

    P = σ((d − bias) / temperature). With bias 0 the label is the one of greedy decoding.
    """

    bias: float = 0.0
    temperature: float = 1.0

    def score(self, difference: float) -> float:
        """Probability, 0 to 1. Raises ArtifactError when the model gave no finite number."""
        z = (difference - self.bias) / self.temperature
        if not math.isfinite(z):
            raise ArtifactError("the model's label scores are not finite numbers")
        return 1.0 / (1.0 + math.exp(-z)) if z >= 0 else math.exp(z) / (1.0 + math.exp(z))

    def difference(self, score: float) -> float:
        """The logit difference of a score, 0 to 1, both exclusive: the inverse of `score`."""
        return self.bias + self.temperature * math.log(score / (1 - score))

    def logit(self, score: float) -> float:
        """`difference` of any score: one that was rounded to 0 or 1 counts as just beside it."""
        return self.difference(min(max(score, ROUNDED), 1 - ROUNDED))

    def stricter(self, threshold: float) -> Calibration:
        """The one whose 0.5 lies at `threshold` (0 to 1, exclusive) of this one, never above."""
        return replace(self, bias=min(self.bias, self.difference(threshold)))


@dataclass(frozen=True)
class MissBound:
    """With `confidence`, at most `rate` of unsafe rows score below `threshold` (0 to 1).

    rows: unsafe rows that it was fitted on. It holds for rows of their kind, and for no others.
    """

    rate: float
    threshold: float
    confidence: float
    rows: int


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and sha256 (hex) of one file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Artifact:
    """A read manifest. Nothing but the manifest has been checked yet.

    response_line: whether the model writes a Response line only where a response is given, or for
    every conversation ("always", as released ProGuard weights do). free_names: whether it may name
    a risk that the policy lacks. policy_is_fixed: whether it knows no policy but its own.
    max_miss_rate: what its labels were bounded by, see `bounded`. category_thresholds: part → main
    category or full id → score from which such content is "unsafe"; 0.5 for those not named.
    """

    folder: Path
    digest: str
    engine: str
    precision: str
    modalities: tuple[str, ...]
    modes: tuple[str, ...]
    languages: tuple[str, ...]
    files: dict[str, FileEntry]
    model: dict[str, Any]
    calibration: dict[str, Calibration]
    miss_bounds: dict[str, tuple[MissBound, ...]]
    limits: dict[str, int]
    free_names: bool
    policy_is_fixed: bool
    response_line: str
    name: str
    manifest: dict[str, Any] = field(repr=False)
    max_miss_rate: float | None = None
    category_thresholds: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path | str) -> Artifact:
        """Read `artifact.json`. Raises ArtifactError: missing, malformed, or of another version."""
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.is_file():
            raise ArtifactError(
                f"{folder}: not an artifact (no {MANIFEST}); `proguard-edge export` makes one "
                "from a checkpoint folder"
            )
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_MANIFEST_BYTES + 1)
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from None
        if len(raw) > MAX_MANIFEST_BYTES:
            raise ArtifactError(f"{path}: larger than {MAX_MANIFEST_BYTES} bytes")
        try:
            manifest = json.loads(raw)
            if manifest.get("format") != FORMAT:
                raise ArtifactError(f"format {manifest.get('format')!r}, not {FORMAT}")
            return cls._from_manifest(folder, hashlib.sha256(raw).hexdigest(), manifest)
        except ArtifactError as error:
            raise ArtifactError(f"{path}: {error}") from None
        except _MALFORMED as error:
            raise ArtifactError(f"{path}: malformed: {type(error).__name__}: {error}") from None

    @classmethod
    def _from_manifest(cls, folder: Path, digest: str, manifest: dict[str, Any]) -> Artifact:
        files = {}
        for name, entry in manifest["files"].items():
            files[_inside(name)] = FileEntry(int(entry["size"]), str(entry["sha256"]))
        if own := sorted({MANIFEST, SIGNATURE} & files.keys()):
            raise ArtifactError(f"lists {own[0]}, which cannot lie in an artifact")
        for required in ("tokenizer.json", "policy.yaml", "template.jinja"):
            if required not in files:
                raise ArtifactError(f"does not list {required}")
        calibration = {
            part: Calibration(float(c["bias"]), float(c["temperature"]))
            for part, c in manifest.get("calibration", {}).items()
        }
        if any(not c.temperature > 0 or not math.isfinite(c.bias) for c in calibration.values()):
            raise ArtifactError("calibration with a temperature that is not positive")
        miss_bounds = {
            part: tuple(_bound(bound) for bound in bounds)
            for part, bounds in manifest.get("miss_bounds", {}).items()
        }
        return cls(
            folder=folder,
            digest=digest,
            engine=str(manifest["engine"]),
            precision=str(manifest["precision"]),
            modalities=_known(manifest["modalities"], MODALITIES),
            modes=_known(manifest["modes"], MODES),
            languages=tuple(map(str, manifest.get("languages", ()))),
            files=files,
            model=dict(manifest["model"]),
            calibration=calibration,
            miss_bounds=miss_bounds,
            limits=_limits({k: int(v) for k, v in manifest.get("limits", {}).items()}),
            free_names=bool(manifest.get("free_names", True)),
            policy_is_fixed=bool(manifest.get("policy_is_fixed", False)),
            response_line=_known([manifest.get("response_line", "given")], ("given", "always"))[0],
            name=str(manifest["name"]),
            manifest=manifest,
            category_thresholds={
                str(part): {str(name): _threshold(part, name, score) for name, score in of.items()}
                for part, of in manifest.get("category_thresholds", {}).items()
            },
        )

    def bounded(self, max_miss_rate: float) -> Artifact:
        """This artifact with labels that miss at most that share of unsafe rows.

        Scores are moved so that "unsafe" still begins at 0.5; no threshold is ever raised, and a
        category's threshold above the bound's comes down to it. Raises ArtifactError where it holds
        no bound as tight, naming the ones it holds.
        """
        calibration, thresholds = dict(self.calibration), dict(self.category_thresholds)
        if not self.miss_bounds:
            raise ArtifactError(
                f"{self.name}: bounds no miss rate; `proguard-edge calibrate` fits bounds on "
                "labelled rows"
            )
        for part, bounds in self.miss_bounds.items():
            kept = [bound for bound in bounds if bound.rate <= max_miss_rate]
            if not kept:
                held = ", ".join(f"{bound.rate:g}" for bound in bounds) or "none"
                raise ArtifactError(
                    f"{self.name}: no bound of {max_miss_rate:g} on missed {part}s; it holds {held}"
                )
            loosest = max(kept, key=lambda bound: bound.rate)
            own = self.calibration.get(part, Calibration())
            moved = calibration[part] = own.stricter(loosest.threshold)
            if part in thresholds:
                thresholds[part] = {
                    name: min(0.5, moved.score(own.difference(score)))
                    for name, score in thresholds[part].items()
                }
        return replace(
            self,
            calibration=calibration,
            category_thresholds=thresholds,
            max_miss_rate=max_miss_rate,
        )

    @property
    def signed(self) -> bool:
        """Whether a signature lies beside the manifest; whose it is, `check_signature` tells."""
        return (self.folder / SIGNATURE).exists()

    def description(self) -> dict[str, Any]:
        """The manifest's fields as `write_artifact` takes them, in a new dictionary."""
        return {k: v for k, v in self.manifest.items() if k not in ("format", "files")}

    def path(self, name: str) -> Path:
        """Where a listed file lies. Raises ArtifactError for one that the manifest lacks."""
        if name not in self.files:
            raise ArtifactError(f"{self.folder}: the artifact has no {name}")
        return self.folder / name


def _bound(raw: dict[str, Any]) -> MissBound:
    """Raises ValueError for numbers that bound nothing."""
    bound = MissBound(
        float(raw["rate"]), float(raw["threshold"]), float(raw["confidence"]), int(raw["rows"])
    )
    if not all(0 < number < 1 for number in (bound.rate, bound.threshold, bound.confidence)):
        raise ValueError(f"a bound on missed rows outside 0 to 1: {bound}")
    return bound


def _threshold(part: str, name: str, score: Any) -> float:
    """Raises ValueError for what is no category's threshold."""
    if part not in PARTS or not _CATEGORY.fullmatch(name):
        raise ValueError(f"a threshold for {part!r}, {name!r}")
    if isinstance(score, bool) or not SMALLEST <= float(score) <= 1 - SMALLEST:
        raise ValueError(f"{name} of {part}: a threshold of {score!r}, not between 0 and 1")
    return float(score)


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    outside = path.is_absolute() or ".." in path.parts or not path.parts
    if outside or "\\" in name or not name.isprintable():
        raise ArtifactError(f"lists a file outside the artifact: {name!r}")
    return name


def _limits(limits: dict[str, int]) -> dict[str, int]:
    window, overlap = limits.get("window_tokens", 512), limits.get("overlap_tokens", 64)
    sound = window >= 16 and 0 <= overlap < window and limits.get("reason_tokens", 1) >= 1
    if not sound or min(limits.values(), default=0) < 0:
        raise ArtifactError(f"limits that make no sense: {limits}")
    return limits


def _known(values: Any, allowed: tuple[str, ...]) -> tuple[str, ...]:
    found = tuple(map(str, values))
    if not found or not set(found) <= set(allowed):
        raise ArtifactError(f"says {found!r}, known are {allowed}")
    return found
