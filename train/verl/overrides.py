"""Profiles and a user's choices as hydra overrides: pure functions of data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from proguard_edge.errors import TrainingError
from proguard_edge.train.verl.dataset import CHAT_TEMPLATE

PROFILES = ("cpu-smoke", "gpu-24g", "gpu-80g", "8x80g")
FOLDER = Path(__file__).parent / "profiles"
SHARDS = "shards"

_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*")
_WORDS = {"true", "false", "null", "none", "yes", "no", "on", "off", "nan", "inf"}


@dataclass(frozen=True)
class Profile:
    """A kind of machine: "cpu" or "cuda", and what verl is to do on it."""

    name: str
    device: str
    overrides: Mapping[str, Any]

    @classmethod
    def load(cls, name: str) -> Profile:
        """A profile of `profiles/`, on top of those that it extends. Raises TrainingError."""
        if name not in PROFILES:
            raise TrainingError(f"no profile {name!r}: there are {', '.join(PROFILES)}")
        raw = _read(name)
        return cls(name, raw["device"], _extended(raw))

    def value(self, key: str, extra: Sequence[str] = ()) -> Any:
        """The value of an override; the last of `extra` that sets it goes first, as text."""
        given = [item.partition("=")[2] for item in extra if item.partition("=")[0] == key]
        return given[-1] if given else self.overrides[key]


@dataclass(frozen=True)
class Choices:
    """What a user decides. Paths are absolute; steps None is one pass over the data.

    reasoning: whether reasoning must come before the answer. extra: further overrides, "key=value",
    which win.
    """

    model: Path
    train: Path
    validation: Path
    out: Path
    similarity: Path
    steps: int | None = None
    save_every: int | None = None
    reasoning: bool = True
    extra: Sequence[str] = field(default_factory=tuple)


def compose(profile: Profile, choices: Choices) -> list[str]:
    """verl's command line, one override an item, in a fixed order; later ones win."""
    chosen: dict[str, Any] = {
        "data.train_files": str(choices.train),
        "data.val_files": str(choices.validation),
        "actor_rollout_ref.model.path": str(choices.model),
        "actor_rollout_ref.model.custom_chat_template": CHAT_TEMPLATE,
        "reward.custom_reward_function.path": str(Path(__file__).parent / "reward_fn.py"),
        "reward.custom_reward_function.name": "compute_score",
        "+reward.custom_reward_function.reward_kwargs.similarity": str(choices.similarity),
        "+reward.custom_reward_function.reward_kwargs.reasoning": choices.reasoning,
        "trainer.default_local_dir": str(choices.out / SHARDS),
    }
    if choices.steps is not None:
        chosen["trainer.total_training_steps"] = choices.steps
    if choices.save_every is not None:
        chosen |= {"trainer.save_freq": choices.save_every, "trainer.test_freq": choices.save_every}
    merged = {**profile.overrides, **chosen}
    for item in choices.extra:
        if not re.fullmatch(r"\+{0,2}[\w.@/-]+=.*", item):
            raise TrainingError(f"{item!r} is no override: write key=value")
    replaced = {item.partition("=")[0].lstrip("+") for item in choices.extra}
    kept = {key: value for key, value in merged.items() if key.lstrip("+") not in replaced}
    return [f"{key}={hydra_value(value)}" for key, value in kept.items()] + list(choices.extra)


def hydra_value(value: Any) -> str:
    """A value in hydra's override grammar, which reads it back as the same value and type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(hydra_value, value))}]"
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    # A backslash counts only before a quote or at the end.
    text = re.sub(r"(\\*)'", lambda found: found[1] * 2 + "\\'", text)
    text = re.sub(r"(\\+)$", lambda found: found[1] * 2, text)
    return f"'{text}'"


def _read(name: str) -> dict[str, Any]:
    raw = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return raw if "overrides" in raw else {"overrides": raw}


def _extended(raw: dict[str, Any]) -> dict[str, Any]:
    base = _extended(_read(raw["extends"])) if "extends" in raw else {}
    return {**base, **raw["overrides"]}
