"""verl's synchronous trainer, which also logs the parts of the reward of each training step.

verl 0.9.1 logs what a reward function returns beside the score for validation only.
"""

from __future__ import annotations

from typing import Any

NAME = "proguard"
PREFIX = "reward"


def means(infos: list[dict[str, Any]]) -> dict[str, float]:
    """`reward/<part>` averaged over answers, and `reward/total/<modality>` over those of each.

    infos: what `reward_fn.compute_score` returned for every answer of a step.
    """
    found: dict[str, list[float]] = {}
    for info in infos:
        for name, value in info.items():
            if isinstance(value, int | float):
                found.setdefault(f"{PREFIX}/{name}", []).append(float(value))
        if "modality" in info:
            key = f"{PREFIX}/total/{info['modality']}"
            found.setdefault(key, []).append(float(info["score"]))
    return {name: sum(values) / len(values) for name, values in found.items()}


def register() -> None:
    """Register the trainer under `trainer.v1.trainer_mode=proguard`."""
    import transfer_queue as tq  # type: ignore[import-not-found]
    from verl.trainer.ppo.v1.trainer_base import (  # type: ignore[import-not-found]
        TRAINER_REGISTRY,
        register_trainer,
    )
    from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync  # type: ignore[import-not-found]

    if NAME in TRAINER_REGISTRY:
        return

    @register_trainer(NAME)
    class PartsTrainer(PPOTrainerSync):  # type: ignore[misc]
        def __init__(self, config: Any) -> None:
            # The base class asks for the mode by name wherever synchronous and other modes differ.
            config.trainer.v1.trainer_mode = "sync"
            super().__init__(config)

        def _compute_metrics(
            self, batch: Any, metrics: Any, timing_raw: Any, global_steps: int, epoch: int
        ) -> None:
            super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
            keys = [
                key
                for key, tag in zip(batch.keys, batch.tags, strict=True)
                if not tag.get("is_padding", False)
            ]
            data = tq.kv_batch_get(
                keys=keys, partition_id=batch.partition_id, select_fields=["extra_fields"]
            )
            # Popped, it is a tensordict's stack; indexed, it would be a list without `tolist`.
            fields = [f for f in data.pop("extra_fields").tolist() if isinstance(f, dict)]
            metrics.update(means([field.get("reward_extra_info") or {} for field in fields]))
