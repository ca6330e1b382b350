"""Recipes: how a checkpoint becomes an artifact, as a small YAML file of steps.

    name: trtllm-int4
    summary: one line
    hardware: what runs it
    steps:
      gptq: {stage: gptq, samples: samples, group_size: 128}  # an input names an earlier step
    artifact: trtllm        # the step whose folder is the result
    judged: check           # the step that the quality gate judges; by default the artifact
    gate: {min_agreement: 0.97}

`stage` is one of `stages.STAGES`. A step that the machine cannot run, such as an engine for a GPU,
is judged through another step that holds the same integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from proguard_edge.errors import ArtifactError
from proguard_edge.export.quality import Limits
from proguard_edge.export.stages import STAGES

FOLDER = Path(__file__).parent / "recipes"
KEYS = {"name", "summary", "hardware", "steps", "artifact", "judged", "gate"}


@dataclass(frozen=True)
class Step:
    """A stage with its options. inputs: names of earlier steps, by the stage's input."""

    name: str
    stage: str
    options: Mapping[str, Any]
    inputs: Mapping[str, str]


@dataclass(frozen=True)
class Recipe:
    """See the module. Raises ArtifactError on construction when its parts do not fit together."""

    name: str
    summary: str
    hardware: str
    steps: tuple[Step, ...]
    artifact: str
    judged: str
    limits: Limits

    def __post_init__(self) -> None:
        known: set[str] = set()
        for step in self.steps:
            if lacking := set(STAGES[step.stage].inputs) - set(step.inputs):
                raise ArtifactError(f"{self.name}: {step.name} needs {', '.join(sorted(lacking))}")
            for source in step.inputs.values():
                if source not in known:
                    raise ArtifactError(f"{self.name}: {step.name} uses {source!r}, no step before")
            known.add(step.name)
        for name in (self.artifact, self.judged):
            if name not in known:
                raise ArtifactError(f"{self.name}: no step {name!r}; there are {sorted(known)}")

    @classmethod
    def load(cls, name: str) -> Recipe:
        """One of the package's recipes, else a YAML file. Raises ArtifactError."""
        import yaml

        path = FOLDER / f"{name}.yaml"
        if not path.is_file():
            path = Path(name)
        if not path.is_file():
            known = ", ".join(recipe_names())
            raise ArtifactError(f"no recipe {name!r}; a file, or one of {known}")
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
            return cls._from(raw)
        except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
            what = " ".join(str(error).split())
            raise ArtifactError(f"{path}: not a recipe: {type(error).__name__}: {what}") from None

    @classmethod
    def _from(cls, raw: Mapping[str, Any]) -> Recipe:
        if unknown := set(raw) - KEYS:
            raise ArtifactError(f"a recipe has no {', '.join(map(str, sorted(unknown)))}")
        steps = tuple(_step(str(name), dict(given)) for name, given in raw["steps"].items())
        artifact = str(raw["artifact"])
        gate = dict(raw.get("gate", {}))
        if unknown := set(gate) - {field.name for field in fields(Limits)}:
            raise ArtifactError(f"a gate has no {', '.join(map(str, sorted(unknown)))}")
        return cls(
            name=str(raw["name"]),
            summary=str(raw["summary"]),
            hardware=str(raw["hardware"]),
            steps=steps,
            artifact=artifact,
            judged=str(raw.get("judged", artifact)),
            limits=Limits(**gate),
        )

    def step(self, name: str) -> Step:
        """Raises KeyError for a name that no step has."""
        return {step.name: step for step in self.steps}[name]

    def with_options(self, settings: Mapping[str, Any]) -> Recipe:
        """With other options of steps, each named `step.option`. Raises ArtifactError."""
        steps = {step.name: step for step in self.steps}
        for name, value in settings.items():
            step, _, option = name.partition(".")
            if step not in steps or not option:
                raise ArtifactError(f"{name!r} is no option; write one of {sorted(steps)}.OPTION")
            changed = _step(
                step, {"stage": steps[step].stage, **steps[step].options, option: value}
            )
            steps[step] = replace(steps[step], options=changed.options)
        return replace(self, steps=tuple(steps.values()))


def recipe_names() -> list[str]:
    """Names of the package's recipes, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def _step(name: str, given: dict[str, Any]) -> Step:
    stage = str(given.pop("stage", ""))
    if stage not in STAGES:
        raise ArtifactError(f"step {name}: no stage {stage!r}; known are {', '.join(STAGES)}")
    kind = STAGES[stage]
    names = (*kind.inputs, *kind.may_use)
    inputs = {key: str(given.pop(key)) for key in names if key in given}
    if unknown := set(given) - set(kind.options):
        named, known = ", ".join(sorted(unknown)), ", ".join(kind.options) or "none"
        raise ArtifactError(f"step {name}: {stage} has no option {named}; known are {known}")
    return Step(name, stage, given, inputs)
