"""transformers as a rollout server of verl, for machines that vLLM and SGLang do not run on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from typing import Any

import ray  # type: ignore[import-not-found]
import torch
from verl.utils.config import omega_conf_to_dataclass  # type: ignore[import-not-found]
from verl.workers.rollout.base import BaseRollout  # type: ignore[import-not-found]
from verl.workers.rollout.replica import (  # type: ignore[import-not-found]
    RolloutReplica,
    TokenOutput,
)

from proguard_edge.train.verl.generate import Generator, Job, Sampling

# Seconds without a new request after which those that wait are run together: verl sends all
# requests of a step one by one, within milliseconds once their pictures are decoded.
QUIET = 0.05


class Server:
    """verl's rollout server interface around a Generator; a Ray actor."""

    def __init__(self, config: Any, model_config: Any) -> None:
        self._config = omega_conf_to_dataclass(config)
        self._global_steps: int | None = None
        self._waiting: list[tuple[Job, Sampling, asyncio.Future[TokenOutput]]] = []
        self._runner: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        torch.set_num_threads(os.cpu_count() or 1)
        self._generator = Generator.load(model_config.path)

    async def ready(self) -> str:
        """The address of this node."""
        return str(ray.util.get_node_ip_address())

    async def generate(
        self,
        prompt_ids: list[int],
        sampling_params: dict[str, Any],
        request_id: str,  # noqa: ARG002 - verl's signature
        image_data: list[Any] | None = None,
        **_: Any,
    ) -> TokenOutput:
        """One answer; requests that arrive together are sampled together."""
        room = self._config.prompt_length + self._config.response_length - len(prompt_ids)
        sampling = Sampling.from_verl(sampling_params, min(self._config.response_length, room))
        future: asyncio.Future[TokenOutput] = asyncio.get_running_loop().create_future()
        job = Job(tuple(map(int, prompt_ids)), tuple(image_data or ()))
        self._waiting.append((job, sampling, future))
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        output = await future
        if not sampling_params.get("logprobs"):
            output.log_probs = None
        return output

    async def _run(self) -> None:
        while self._waiting:
            seen = -1
            while seen != len(self._waiting):
                seen = len(self._waiting)
                await asyncio.sleep(QUIET)
            batch, self._waiting = self._waiting, []
            async with self._lock:
                for sampling in {entry[1] for entry in batch}:
                    await self._answer([entry for entry in batch if entry[1] == sampling])

    async def _answer(self, batch: list[tuple[Job, Sampling, asyncio.Future[TokenOutput]]]) -> None:
        jobs, futures = [job for job, _, _ in batch], [future for _, _, future in batch]
        try:
            answers = await asyncio.to_thread(self._generator, jobs, batch[0][1])
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of any failure
            for future in futures:
                future.set_exception(error)
            return
        for future, answer in zip(futures, answers, strict=True):
            output = TokenOutput(
                token_ids=answer.ids,
                log_probs=answer.log_probs,
                stop_reason="completed",
                extra_fields={"global_steps": self._global_steps},
            )
            future.set_result(output)

    async def update_weights(self, state: dict[str, torch.Tensor]) -> None:
        """Copy the trained weights. Raises KeyError for a weight that the model does not have."""
        async with self._lock:
            own = self._generator.model.state_dict()
            with torch.no_grad():
                for name, weight in state.items():
                    own[name].copy_(weight)

    async def set_global_steps(self, steps: int) -> None:
        """The version of the weights, which verl wants to hear back with each answer."""
        self._global_steps = steps

    async def abort_all_requests(self, reject_request: bool = False) -> dict[str, Any]:  # noqa: ARG002
        """Nothing is ever aborted: training waits for all answers."""
        return {}

    async def wake_up(self, *_: Any, **__: Any) -> None:
        """Weights stay in memory all the time, and so below."""

    sleep = clear_kv_cache = release_kv_cache = resume_kv_cache = wake_up
    resume_generation = start_profile = stop_profile = wake_up


class Replica(RolloutReplica):  # type: ignore[misc]
    """One server on this node."""

    async def launch_servers(self) -> None:
        """Start the server as a Ray actor that takes no share of the resources."""
        actor = ray.remote(Server).options(
            name=_name(self.replica_rank, self.name_suffix),
            num_cpus=0,
            max_concurrency=self.max_concurrency,
        )
        server = actor.remote(self.config, self.model_config)
        self.servers, self._server_handle = [server], server
        self._server_address = f"{await server.ready.remote()}:{self.replica_rank}"


class ServerAdapter(BaseRollout):  # type: ignore[misc]
    """The training worker's side: passes weights on to the server."""

    def __init__(
        self, config: Any, model_config: Any, device_mesh: Any, replica_rank: int = -1
    ) -> None:
        super().__init__(config, model_config, device_mesh)
        self._rank = int(os.environ["RANK"]) if replica_rank == -1 else replica_rank
        self._found: Any = None

    @property
    def _server(self) -> Any:
        # The server is launched after this object is made.
        self._found = self._found or ray.get_actor(_name(self._rank))
        return self._found

    async def resume(self, tags: list[str]) -> None:
        """Nothing to bring back."""

    async def release(self) -> None:
        """Nothing to give away."""

    async def update_weights(
        self,
        weights: Iterable[tuple[str, torch.Tensor]],
        wire_format: str = "named_tensors",
        global_steps: int | None = None,
        **_: Any,
    ) -> None:
        """Send all weights. Raises ValueError for another format than whole tensors."""
        if wire_format != "named_tensors":
            raise ValueError(f"the hf rollout takes whole tensors, not {wire_format}")
        state = {name: weight.detach().cpu().contiguous() for name, weight in weights}
        await self._server.update_weights.remote(state)
        if global_steps is not None:
            await self._server.set_global_steps.remote(global_steps)


def _name(rank: int, suffix: str = "") -> str:
    return f"hf_server_{rank}_0{suffix}"
