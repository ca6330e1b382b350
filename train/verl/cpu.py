"""verl on a machine without an accelerator: platform, engine and rollout, by its registries.

Nothing of this is for speed: it lets the whole of a GRPO run be tried, tested and debugged on any
machine, and small models be trained.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any

from proguard_edge.train.verl.fixes import replace

NAME = "cpu"
ROLLOUT = "hf"


def register_workers() -> None:
    """Register the training engine and the rollout with verl in this process."""
    _use_gloo()
    _register_engine()
    _register_rollout()


def device_module() -> types.ModuleType:
    """torch.cpu with what verl expects of torch.cuda; there is no memory to count."""
    import torch

    module = types.ModuleType("proguard_edge_cpu_device")
    for name in dir(torch.cpu):
        if not name.startswith("__"):
            setattr(module, name, getattr(torch.cpu, name))

    def nothing(*_: Any, **__: Any) -> int:
        return 0

    counters = ("allocated", "reserved")
    names = [f"{most}memory_{what}" for most in ("", "max_") for what in counters]
    names += ["reset_peak_memory_stats", "empty_cache", "set_device", "ipc_collect"]
    found = dict.fromkeys(names, nothing) | {
        "is_available": lambda: True,
        "mem_get_info": lambda *_: (0, 0),
        "get_device_name": lambda *_: NAME,
        "get_device_properties": lambda *_: types.SimpleNamespace(total_memory=0, name=NAME),
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda state, *_: torch.set_rng_state(state),
        "manual_seed": torch.manual_seed,
        "manual_seed_all": torch.manual_seed,
    }
    for name, value in found.items():
        setattr(module, name, value)
    return module


def register_platform() -> None:
    """Register this machine as a platform of verl in this process."""
    import torch
    from verl.plugin.platform import (  # type: ignore[import-not-found]
        PlatformBase,
        PlatformRegistry,
    )

    module = device_module()

    class CpuPlatform(PlatformBase):  # type: ignore[misc]
        device_name = vendor_name = NAME
        device_module = module

        def is_available(self) -> bool:
            return True

        def is_platform_available(self, use_smi_check: bool = False) -> bool:  # noqa: ARG002
            # Never found by looking for devices: VERL_PLATFORM=cpu asks for it.
            return False

        def current_device(self) -> str:
            # verl passes this to `.to()`.
            return NAME

        def device_count(self) -> int:
            return 1

        def manual_seed(self, seed: int) -> None:
            torch.manual_seed(seed)

        manual_seed_all = manual_seed

        def set_device(self, device_index: int) -> None: ...

        def synchronize(self, device_index: int | None = None) -> None: ...

        def set_allocator_settings(self, settings: str) -> None: ...

        def empty_cache(self) -> None: ...

        def profiler_start(self) -> None: ...

        def profiler_stop(self) -> None: ...

        def cudart(self) -> None: ...

        def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:  # noqa: ARG002
            return None, None

        def communication_backend_name(self) -> str:
            return "gloo"

        def visible_devices_envvar(self) -> str:
            return "VERL_CPU_VISIBLE_DEVICES"

        @contextlib.contextmanager
        def nvtx_range(self, msg: str) -> Iterator[None]:  # noqa: ARG002
            yield

        def ray_resource_name(self) -> str:
            # What verl's placement groups ask for; `ray_init.num_gpus` declares as many.
            return "GPU"

        def ray_resource_options(self, num_gpus: float) -> dict[str, Any]:
            return {"num_gpus": num_gpus}

        def ray_noset_envvars(self) -> list[str]:
            return []

        def is_ipc_supported(self) -> bool:
            return False

    PlatformRegistry.register(platform=NAME)(CpuPlatform)


def _use_gloo() -> None:
    """verl would ask for "cpu:gloo,cpu:gloo", which torch refuses."""
    import verl.utils.distributed as distributed  # type: ignore[import-not-found]

    original = distributed.initialize_global_process_group_ray

    def initialize(timeout_second: int | None = None, backend: str | None = None) -> Any:
        return original(timeout_second, backend or "cpu:gloo")

    replace(distributed, "initialize_global_process_group_ray", initialize)


def _register_engine() -> None:
    import verl.workers.engine.fsdp.transformer_impl as fsdp  # type: ignore[import-not-found]
    from verl.workers.engine.base import EngineRegistry  # type: ignore[import-not-found]

    offload = fsdp.CPUOffloadPolicy

    class UnpinnedOffload(offload):  # type: ignore[misc, valid-type]
        def __init__(self, pin_memory: bool = False) -> None:  # noqa: ARG002
            # Pinning memory needs a CUDA driver.
            super().__init__(pin_memory=False)

    fsdp.CPUOffloadPolicy = UnpinnedOffload

    class CpuEngine(fsdp.FSDPEngineWithLMHead):  # type: ignore[misc]
        pass

    EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device=NAME)(
        CpuEngine
    )


def _register_rollout() -> None:
    from verl.workers.rollout import base  # type: ignore[import-not-found]
    from verl.workers.rollout.replica import (  # type: ignore[import-not-found]
        RolloutReplicaRegistry,
    )

    adapter = "proguard_edge.train.verl.hf_rollout.ServerAdapter"
    base._ROLLOUT_REGISTRY[(ROLLOUT, "async")] = adapter

    def replica() -> Any:
        from proguard_edge.train.verl.hf_rollout import Replica

        return Replica

    RolloutReplicaRegistry.register(ROLLOUT, replica)
