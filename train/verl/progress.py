"""verl's metrics, one JSON object a step, as a terminal line, a JSONL log and a plot."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# Field of a step → verl's names for it, the first that is there.
NAMES = {
    "reward": ("reward/score", "critic/score/mean"),
    "format": ("reward/format",),
    "request": ("reward/request",),
    "response": ("reward/response",),
    "category": ("reward/category",),
    "kl": ("actor/kl_loss", "actor/reward_kl_penalty"),
    "entropy": ("actor/entropy", "actor/entropy_loss"),
    "length": ("response_length/mean",),
    "grad_norm": ("actor/grad_norm",),
    "clipped": ("actor/pg_clipfrac",),
    "seconds": ("timing_s/step", "perf/time_per_step"),
}
PARTS = ("format", "request", "response", "category")
VALIDATION = ("val-core/", "val-aux/")


@dataclass(frozen=True)
class Step:
    """One training step, averaged over its answers; None where verl did not say.

    reward: 0 to 3; format, request, response, category: its parts; kl: to the reference policy,
    nats a token; entropy: nats a token; length: tokens of an answer; seconds: of the step.
    validation: verl's name without "val-" → value, on steps that validated.
    """

    step: int
    reward: float | None = None
    format: float | None = None
    request: float | None = None
    response: float | None = None
    category: float | None = None
    kl: float | None = None
    entropy: float | None = None
    length: float | None = None
    grad_norm: float | None = None
    clipped: float | None = None
    seconds: float | None = None
    validation: dict[str, float] = field(default_factory=dict)

    @property
    def trained(self) -> bool:
        """Whether it is a training step and no validation before the first."""
        return self.length is not None


def parse(line: str | bytes) -> Step | None:
    """A line of verl's file logger; None for one that is not whole or not a step."""
    try:
        raw = json.loads(line)
        step, data = int(raw["step"]), dict(raw["data"])
    except (ValueError, KeyError, TypeError):
        return None
    values = {name: _first(data, keys) for name, keys in NAMES.items()}
    validation = {
        key.removeprefix("val-"): number
        for key, value in data.items()
        if key.startswith(VALIDATION) and (number := _number(value)) is not None
    }
    return Step(step, validation=validation, **values)  # type: ignore[arg-type]


def describe(step: Step, total: int | None = None) -> str:
    """One line for a terminal."""
    of = f"/{total}" if total else ""
    if not step.trained:
        return f"step {step.step}{of}  validation {_validation(step)}"
    parts = "  ".join(f"{name} {_short(getattr(step, name))}" for name in PARTS)
    line = (
        f"step {step.step}{of}  reward {_short(step.reward)}  {parts}  kl {_short(step.kl, 4)}  "
        f"entropy {_short(step.entropy, 2)}  {_short(step.length, 0)} tokens  "
        f"{_short(step.seconds, 1)} s"
    )
    return f"{line}  validation {_validation(step)}" if step.validation else line


class Follower:
    """Reads the lines that are appended to a file, also one that does not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path, self._at, self._rest = path, 0, b""

    def new(self) -> Iterator[Step]:
        """Steps that were written since the last call."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        self._at += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        yield from (step for line in lines if (step := parse(line)) is not None)


def append(path: Path, step: Step) -> None:
    """Add a step to a JSONL log."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(step), ensure_ascii=False) + "\n")


def read(path: Path) -> list[Step]:
    """The steps of a JSONL log in order; of a step that was run again, the last."""
    found: dict[int, Step] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            step = Step(**json.loads(line))
            found[step.step] = step
    return [found[number] for number in sorted(found)]


def plot(steps: Iterable[Step], path: Path) -> bool:
    """Draw the run as PNG; False where matplotlib is not installed or nothing was trained."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    trained = [step for step in steps if step.trained]
    if not trained:
        return False
    figure = Figure(figsize=(12, 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = (("reward",), PARTS, ("kl",), ("entropy",), ("length",), ("seconds",))
    for axes, names in zip(figure.subplots(2, 3).flat, panels, strict=True):
        for name in names:
            points = [(s.step, getattr(s, name)) for s in trained if getattr(s, name) is not None]
            axes.plot(*zip(*points, strict=True), label=name) if points else None
        axes.set_title(", ".join(names), fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        if len(names) > 1 and axes.lines:
            axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    return True


def _validation(step: Step) -> str:
    scores = {
        key.split("/")[1]: value for key, value in step.validation.items() if "/reward/mean" in key
    }
    return ", ".join(f"{name} {value:.3f}" for name, value in sorted(scores.items())) or "-"


def _first(data: dict[str, Any], keys: tuple[str, ...]) -> float | None:
    return next((n for key in keys if (n := _number(data.get(key))) is not None), None)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _short(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
