"""Profiles and choices as hydra overrides; with verl installed, against its own configuration."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from proguard_edge.errors import TrainingError
from proguard_edge.train.verl import tvshim
from proguard_edge.train.verl.dataset import CHAT_TEMPLATE
from proguard_edge.train.verl.overrides import PROFILES, Choices, Profile, compose, hydra_value

CHOICES = Choices(
    model=Path("/runs/it's a run/model"),
    train=Path("/runs/it's a run/data/train.parquet"),
    validation=Path("/runs/it's a run/data/validation.parquet"),
    out=Path("/runs/it's a run"),
    similarity=Path("/models/similarity"),
    steps=7,
)
# Of the reference's overrides; the README says why each differs.
DIFFERENT = {
    "actor_rollout_ref.actor.clip_ratio",
    "actor_rollout_ref.actor.checkpoint.save_contents",
    "actor_rollout_ref.rollout.engine_kwargs.vllm.disable_mm_preprocessor_cache",
    "custom_reward_function.path",
    "custom_reward_function.name",
    "trainer.logger",
    "trainer.project_name",
    "trainer.experiment_name",
}
DIFFERENT_PREFIXES = (
    "actor_rollout_ref.actor.megatron.",
    "actor_rollout_ref.ref.megatron.",
    "actor_rollout_ref.actor.optim.override_optimizer_config.",
    "reward_model.sentence_transformer.",
)


def settings(items: list[str]) -> dict[str, str]:
    return {key.lstrip("+"): value for key, _, value in (item.partition("=") for item in items)}


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_sets_all_three_clip_ratios_to_the_same(name: str) -> None:
    found = settings(compose(Profile.load(name), CHOICES))
    keys = ("clip_ratio", "clip_ratio_low", "clip_ratio_high")
    assert {found[f"actor_rollout_ref.actor.{key}"] for key in keys} == {"0.2"}


@pytest.mark.parametrize("name", PROFILES)
def test_no_key_is_set_twice(name: str) -> None:
    keys = [item.partition("=")[0].lstrip("+") for item in compose(Profile.load(name), CHOICES)]
    assert len(keys) == len(set(keys))


def test_the_large_profile_is_the_reference_run_but_for_the_named_differences(
    shared: Path,
) -> None:
    listed = (shared / "upstream" / "reference_overrides.txt").read_text().splitlines()
    reference = settings([line for line in listed if line and not line.startswith("#")])
    found = settings(compose(Profile.load("8x80g"), CHOICES))
    for key, value in reference.items():
        if key in DIFFERENT or key.startswith(DIFFERENT_PREFIXES) or "<" in value:
            continue
        assert _number(yaml.safe_load(found[key])) == _number(yaml.safe_load(value)), key


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-6 as text."""
    return (
        float(value) if isinstance(value, str) and re.fullmatch(r"[\d.]+e-?\d+", value) else value
    )


def test_a_users_override_wins_over_the_profile() -> None:
    choices = Choices(**{**vars(CHOICES), "extra": ("data.train_batch_size=2",)})
    found = compose(Profile.load("cpu-smoke"), choices)
    assert [item for item in found if "train_batch_size" in item] == ["data.train_batch_size=2"]
    assert Profile.load("cpu-smoke").value("data.train_batch_size", choices.extra) == "2"


def test_what_is_no_override_is_refused() -> None:
    choices = Choices(**{**vars(CHOICES), "extra": ("--help",)})
    with pytest.raises(TrainingError, match="key=value"):
        compose(Profile.load("cpu-smoke"), choices)


def test_an_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(TrainingError, match="gpu-24g"):
        Profile.load("gpu-1t")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "null"),
        (True, "true"),
        (1e-6, "1e-06"),
        (["a", 1], "[a,1]"),
        ("true", "'true'"),
        ("a b", "'a b'"),
        ("it's", "'it\\'s'"),
    ],
)
def test_values_keep_their_type_in_hydras_grammar(value: Any, written: str) -> None:
    assert hydra_value(value) == written


@pytest.mark.filterwarnings("ignore")  # verl warns of every engine that is not installed
@pytest.mark.parametrize("name", PROFILES)
def test_verl_accepts_the_composed_configuration(name: str) -> None:
    if find_spec("verl") is None:
        pytest.skip("verl is not installed here")
    tvshim.declare()
    import hydra
    from omegaconf import open_dict
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    overrides = compose(Profile.load(name), CHOICES)
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        config = hydra.compose("ppo_trainer", overrides=overrides)
    assert config.actor_rollout_ref.model.custom_chat_template == CHAT_TEMPLATE
    assert config.trainer.default_local_dir == "/runs/it's a run/shards"
    assert config.trainer.total_training_steps == 7
    if find_spec("vllm") is None:
        # For an adapter verl asks vLLM which ranks it can serve.
        config.actor_rollout_ref.rollout.name = "hf"
    reference = need_reference_policy(config)
    validate_config(config=config, use_reference_policy=reference, use_critic=need_critic(config))
    worker = config.actor_rollout_ref
    with open_dict(worker.ref):
        # As verl's worker does before it reads them.
        for key in [key for key in worker.ref if str(key).startswith("log_prob_")]:
            worker.ref.pop(key)
        worker.ref.ppo_mini_batch_size = worker.actor.ppo_mini_batch_size
        worker.ref.ppo_micro_batch_size_per_gpu = worker.actor.ppo_micro_batch_size_per_gpu
    for part in (worker.actor, worker.ref, worker.rollout, config.algorithm):
        omega_conf_to_dataclass(part)


def test_a_cpu_computes_in_fp32_and_gpus_as_verl_does() -> None:
    key = "fsdp_config.mixed_precision.param_dtype"
    for part in ("actor", "ref"):
        name = f"+actor_rollout_ref.{part}.{key}"
        assert Profile.load("cpu-smoke").overrides[name] == "fp32"
        assert name not in Profile.load("8x80g").overrides
