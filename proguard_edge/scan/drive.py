"""All that is left of a scan, through the pool: how many workers, how it went."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

from proguard_edge import system
from proguard_edge.errors import EngineError
from proguard_edge.scan.pool import divide, judge_shards, nodes_of, ray_at
from proguard_edge.scan.run import GiveUp, Scan
from proguard_edge.scan.worker import Done, Progress, Task

# Of each worker, beside twice its artifact.
WORKER_BYTES = 300 << 20


@dataclass(frozen=True)
class Run:
    """One run of a scan: the rows that it judged, the seconds with starting and stopping."""

    rows: int = 0
    seconds: float = 0.0
    workers: int = 0
    threads: int = 0

    @property
    def rows_per_second(self) -> float:
        """0 where nothing was left to judge."""
        return self.rows / self.seconds if self.rows else 0.0


def judge_rest(
    scan: Scan,
    task: Task,
    *,
    workers: int | None = None,
    address: str | None = None,
    show: Callable[[Progress], None] = lambda _: None,
) -> Run:
    """Judge `scan.todo`. Shards that fail are noted in `scan.failures`.

    workers: None = one per two cores, as far as the memory goes; `task.threads` 0: the cores shared
    out. address: of a Ray cluster, None = this machine. show: told how far the scan is, from any
    thread. Raises EngineError when Ray fails, InputError when the output cannot be written.
    """
    if not scan.todo:
        return Run()
    begin, log = monotonic(), scan.store.folder / "ray.log"
    cores = max(system.cores(), (workers or 1) * (task.threads or 1))
    with ray_at(address, cores, log) as ray:
        nodes, memory = nodes_of(ray)
        nodes = nodes if address else [system.cores()]
        if address and task.threads > max(nodes):
            raise EngineError(f"no node has {task.threads} cores: give fewer --threads")
        most = memory // (WORKER_BYTES + 2 * _bytes_of(task))
        workers, threads = divide(nodes, workers, task.threads, most)
        workers = min(workers, len(scan.todo))

        def finished(done: Done) -> None:
            scan.finished(done)
            show(scan.progress())

        def running(shards: dict[int, Progress]) -> None:
            show(scan.progress(shards))

        task = replace(task, threads=threads)
        with suppress(GiveUp):
            judge_shards(ray, task, scan.todo, workers, finished, running)
    if not scan.missing:
        log.unlink(missing_ok=True)
    return Run(scan.tally.rows - scan.found_rows, monotonic() - begin, workers, threads)


def _bytes_of(task: Task) -> int:
    files = Path(task.loading["artifact"]).rglob("*")
    return sum(path.stat().st_size for path in files if path.is_file())
