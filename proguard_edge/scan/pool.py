"""Many workers with Ray Data: on this machine, or on the cluster at an address.

Ray hands out shards, starts workers anew that died, and gives them their shard again. How often a
shard may be begun is counted here: one that kills every worker ends as a failure of the run.

On this machine Ray listens on the loopback address alone and asks for a token that only this run
knows; there is no dashboard, and nothing is reported to anybody.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import secrets
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic
from typing import Any

from proguard_edge.errors import EngineError
from proguard_edge.scan.plan import Shard
from proguard_edge.scan.worker import Done, Progress, Task, Worker

MAX_ATTEMPTS = 3
LOCALHOST = "127.0.0.1"
_TELL_S = 1.0
_OBJECT_STORE_BYTES = 256 << 20
# Ray's files lie in a private folder, unless the names of its sockets would be too long there.
_MAX_FOLDER_CHARS = 30


def divide(
    nodes: Sequence[int], workers: int | None, threads: int, most: int | None = None
) -> tuple[int, int]:
    """How many workers, and threads of each, on nodes with so many cores.

    workers: None = as many as the cores allow, and at most `most`. threads: 0 = the cores shared
    out; without `workers`, two each.
    """
    if workers is None:
        workers = sum(cores // (threads or 2) for cores in nodes)
        workers = max(1, min(workers, most) if most is not None else workers)
    return workers, threads or max(1, min(*nodes, sum(nodes) // workers))


@contextmanager
def ray_at(address: str | None, cores: int, log: Path) -> Iterator[Any]:
    """The module `ray`, connected to the cluster at `address`, or (None) to one of its own.

    cores: how many its own one has. What is written to stdout and stderr meanwhile, by whatever
    library, goes into the file `log`. Raises EngineError when Ray cannot be reached or started.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with ExitStack() as stack:
        stack.enter_context(_written_to(log))
        settings: dict[str, Any] = {"address": address}
        if address is None:
            settings = _local_settings(cores)
            if len(tempfile.gettempdir()) <= _MAX_FOLDER_CHARS:
                folder = tempfile.TemporaryDirectory(prefix="pe-", ignore_cleanup_errors=True)
                settings["_temp_dir"] = stack.enter_context(folder)
        try:
            ray = _connected(stack, settings, address)
        except EngineError as error:
            raise EngineError(f"{error}; its own words are in {log}") from error
        yield ray


def nodes_of(ray: Any) -> tuple[list[int], int]:
    """Cores of each node, and bytes of memory of all that workers may use."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = [int(found["CPU"]) for found in alive if found.get("CPU", 0) >= 1]
    if not cores:
        raise EngineError("no node of the Ray cluster has a core to spare")
    return cores, int(sum(found.get("memory", 0) for found in alive))


def judge_shards(
    ray: Any,
    task: Task,
    shards: Sequence[Shard],
    workers: int,
    finished: Callable[[Done], None],
    running: Callable[[dict[int, Progress]], None] = lambda _: None,
    make: Callable[[Task], Worker] = Worker,
) -> None:
    """Give all shards to workers; `finished` is called once for each, in any order.

    running: called about once a second, from another thread, with the rows that shards have done
    which are not finished, or were a moment ago. make: a worker, in a process of its own. Raises
    EngineError when Ray fails.
    """
    ledger = ray.remote(num_cpus=0)(Ledger).remote()
    # One shard a block: a block is what Ray hands out, and what is done again after a death. One
    # in flight: a shard that kills its worker must not take others with it that wait there.
    items = [{"shard": shard.to_json()} for shard in shards]
    results = ray.data.from_items(items, override_num_blocks=len(items)).map(
        Judge,
        fn_constructor_kwargs={"worker": functools.partial(make, task), "ledger": ledger},
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
        num_cpus=task.threads,
    )
    try:
        with _watched(lambda: running(ray.get(ledger.running.remote(), timeout=10))):
            for batch in results.iter_batches(
                batch_size=None, prefetch_batches=0, batch_format="pyarrow"
            ):
                for row in batch.to_pylist():
                    finished(Done(**row))
    except ray.exceptions.RayError as error:
        raise EngineError(f"Ray failed: {' '.join(str(error).split())[:300]}") from error


class Ledger:
    """An actor of its own: how often each shard was begun, and how far each worker is."""

    def __init__(self) -> None:
        self._begun: dict[int, int] = {}
        self._running: dict[str, tuple[int, Progress]] = {}

    def begin(self, worker: str, number: int) -> int:
        """How often this shard was begun, this time included."""
        self._begun[number] = self._begun.get(number, 0) + 1
        self._running[worker] = (number, Progress())
        return self._begun[number]

    def tell(self, worker: str, number: int, progress: Progress) -> None:
        """How far a worker is."""
        self._running[worker] = (number, progress)

    def running(self) -> dict[int, Progress]:
        """How far each shard is that a worker has, or had last."""
        return dict(self._running.values())


class Judge:
    """A worker as Ray Data calls it: a shard in, its lines or failure out."""

    def __init__(self, worker: Callable[[], Worker], ledger: Any) -> None:
        self._worker, self._ledger, self._name = worker(), ledger, secrets.token_hex(8)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import ray

        shard = Shard.from_json(row["shard"])
        attempt = ray.get(self._ledger.begin.remote(self._name, shard.number))
        if attempt > MAX_ATTEMPTS:
            failure = (
                f"{MAX_ATTEMPTS} workers died of rows {shard.first} to "
                f"{shard.first + shard.rows - 1} of {shard.path}, or for want of memory: "
                "try fewer --workers"
            )
            done = Done(shard.number, failure=failure)
        else:
            done = self._worker.judge(shard, self._teller(shard.number))
        # Arrow holds no lone surrogates, and names of files do.
        plain = done.failure.encode("utf-8", "backslashreplace").decode("utf-8")
        return asdict(replace(done, failure=plain))

    def _teller(self, number: int) -> Callable[[Progress], None]:
        last = monotonic()

        def tell(progress: Progress) -> None:
            nonlocal last
            if monotonic() - last > _TELL_S:
                last = monotonic()
                self._ledger.tell.remote(self._name, number, progress)

        return tell


def _connected(stack: ExitStack, settings: dict[str, Any], address: str | None) -> Any:
    """Ray, until the stack ends."""
    ray: Any = importlib.import_module("ray")
    importlib.import_module("ray.data")
    where = address or "on this machine"
    try:
        ray.init(**settings, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split())[:300]
        raise EngineError(f"Ray {where} cannot be used: {reason}") from error
    stack.callback(ray.shutdown)
    if address is None and [node["NodeManagerAddress"] for node in ray.nodes()] != [LOCALHOST]:
        raise EngineError("Ray listens on the network, which was not asked for: it was shut down")
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray


def _local_settings(cores: int) -> dict[str, Any]:
    # Whatever address it is given, Ray listens on all of them, but for systems on which it makes
    # no clusters. It reads the environment when it is imported.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    # Ray would give its workers the lowest priority; whoever wants that calls `nice`.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = _token()
    return {
        "address": "local",
        "num_cpus": cores,
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE_BYTES,
        "_node_ip_address": LOCALHOST,
    }


@functools.cache
def _token() -> str:
    # Ray reads it once a process.
    return secrets.token_hex(32)


@contextmanager
def _watched(look: Callable[[], None]) -> Iterator[None]:
    """Calls `look` about once a second, from a thread of its own, whatever comes of it."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_TELL_S):
            # A worker's death, or the end of the run: the next look, or none, will tell.
            try:
                look()
            except Exception:  # noqa: BLE001
                continue

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=10 * _TELL_S)


@contextmanager
def _written_to(log: Path) -> Iterator[None]:
    """stdout and stderr into a file: Ray and its processes write to the numbers 1 and 2."""
    with log.open("ab") as file:
        sys.stdout.flush()
        sys.stderr.flush()
        kept = [os.dup(number) for number in (1, 2)]
        try:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, old in zip((1, 2), kept, strict=True):
                os.dup2(old, number)
                os.close(old)
