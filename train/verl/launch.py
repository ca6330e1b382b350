"""A GRPO run from rows to a merged checkpoint.

What stands in the output folder:
    run.json          what the run is; another run is refused the folder
    data/             train.parquet, validation.parquet
    model/            the checkpoint as verl reads it: links, and the processor's settings completed
    shards/           verl's checkpoints, from which a stopped run goes on
    outputs/          what hydra notes of each attempt
    logs/             what verl printed, and its own metrics, one file an attempt
    metrics.jsonl     a line a step, over all attempts
    progress.png      the same as a plot
    checkpoint/       the trained model, for `proguard-edge export`
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from proguard_edge.errors import TrainingError
from proguard_edge.train.rows import Row
from proguard_edge.train.verl import progress
from proguard_edge.train.verl.dataset import Builder, Prompting, write_parquet
from proguard_edge.train.verl.overrides import SHARDS, Choices, Profile, compose
from proguard_edge.train.verl.stage import check_python, environment
from proguard_edge.train.verl.staging import stage_model

Report = Callable[[str], None]
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Run:
    """A run as it was asked for.

    model: the checkpoint to start from. seed: of the policies. passes: how often each row is used,
    under another policy each time. python: the interpreter that has verl.
    """

    profile: Profile
    prompting: Prompting
    out: Path
    similarity: Path
    python: str
    steps: int | None = None
    save_every: int | None = None
    seed: int = 0
    passes: int = 1
    reasoning: bool = True
    extra: Sequence[str] = ()

    @property
    def choices(self) -> Choices:
        """The part that verl's configuration is made of."""
        data = self.out / "data"
        return Choices(
            model=self.out / "model",
            train=data / "train.parquet",
            validation=data / "validation.parquet",
            out=self.out,
            similarity=self.similarity,
            steps=self.steps,
            save_every=self.save_every,
            reasoning=self.reasoning,
            extra=tuple(self.extra),
        )

    def command(self) -> list[str]:
        """verl's command line."""
        overrides = compose(self.profile, self.choices)
        return [self.python, "-P", "-m", "verl.trainer.main_ppo", *overrides]

    def identity(self) -> dict[str, Any]:
        """What must be equal for a run to go on in the folder of another."""
        return {
            "profile": self.profile.name,
            "model": str(self.prompting.checkpoint.resolve()),
            "policy": self.prompting.policy.digest(),
            "template": self.prompting.template.digest(),
            "mode": self.prompting.mode,
            "reasoning": self.reasoning,
            "hiding": asdict(self.prompting.hiding),
            "seed": self.seed,
            "passes": self.passes,
            "overrides": sorted(self.extra),
        }


def train(run: Run, rows: Sequence[Row], validation: Sequence[Row], report: Report) -> Path:
    """Train, or go on with a stopped run, and merge; the folder of the trained checkpoint.

    Raises TrainingError when the environment is not there, `out` holds another run, nothing can be
    trained on, or verl stops with an error, and ArtifactError or PolicyError for model or policy.
    """
    check_python(run.python, run.profile.device)
    _claim(run, {"train": rows, "validation": validation})
    records = _write_data(run, rows, validation, report)
    stage_model(run.prompting.checkpoint, run.out / "model")
    total = run.steps or records * _epochs(run) // _batch(run)
    if total < 1:
        raise TrainingError(f"{records} rows are less than one batch of {_batch(run)}")
    if _reached(run.out) < total:
        _run_verl(run, total, report)
    return merge_latest(run, report)


def merge_latest(run: Run, report: Report) -> Path:
    """Merge the last checkpoint of a run. Raises TrainingError."""
    step = _reached(run.out)
    if not step:
        raise TrainingError(f"{run.out}: no checkpoint was written, see {run.out / 'logs'}")
    report(f"merging step {step}")
    shards = run.out / SHARDS / f"global_step_{step}" / "actor"
    out = run.out / "checkpoint"
    command = [run.python, "-P", "-m", "proguard_edge.train.verl.merge"]
    log = run.out / "logs" / "merge.log"
    with log.open("wb") as output:
        done = subprocess.run(
            [*command, str(shards), str(run.prompting.checkpoint.resolve()), str(out)],
            env=environment(run.profile.device, os.devnull, os.environ),
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        raise TrainingError(f"the checkpoint could not be merged: {_last_error(log)}, see {log}")
    return out


def dry_run(run: Run) -> str:
    """What would be run, as a line for a shell."""
    metrics = run.out / "logs" / "metrics-1.jsonl"
    variables = environment(run.profile.device, metrics, {})
    return shlex.join([*(f"{k}={v}" for k, v in variables.items()), *run.command()])


def _claim(run: Run, parts: Mapping[str, Sequence[Row]]) -> None:
    """Make the folder this run's. Raises TrainingError when it is another's."""
    path = run.out / "run.json"
    wanted = run.identity() | {f"{name} rows": _digest(rows) for name, rows in parts.items()}
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if other := sorted(key for key in wanted if found.get(key) != wanted[key]):
            raise TrainingError(
                f"{run.out} holds a run with another {', '.join(other)}: choose another folder"
            )
    elif run.out.is_dir() and any(run.out.iterdir()):
        raise TrainingError(f"{run.out} is not empty and no training run: choose another folder")
    (run.out / "logs").mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")


def _digest(rows: Sequence[Row]) -> str:
    """Of what stands in the rows and of their order, not of where their pictures lie."""
    found = hashlib.sha256()
    for row in rows:
        found.update(json.dumps(asdict(row) | {"image": None}, sort_keys=True).encode())
    return found.hexdigest()


def _write_data(run: Run, rows: Sequence[Row], validation: Sequence[Row], report: Report) -> int:
    """Write the parquet files unless they are there; the number of training records."""
    notes = run.out / "data" / "counts.json"
    if not notes.is_file():
        counts = {}
        for name, part, passes in (("train", rows, run.passes), ("validation", validation, 1)):
            builder = Builder(run.prompting)
            path = run.out / "data" / f"{name}.parquet"
            write_parquet(part, builder, path, run.seed, name, passes)
            counts[name] = vars(builder.counts)
            report(f"{name}: " + ", ".join(f"{k} {v}" for k, v in counts[name].items() if v))
        notes.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    return int(json.loads(notes.read_text(encoding="utf-8"))["train"]["written"])


def _run_verl(run: Run, total: int, report: Report) -> None:
    logs, attempt = run.out / "logs", 1
    while (log := logs / f"verl-{attempt}.log").exists():
        attempt += 1
    metrics = logs / f"metrics-{attempt}.jsonl"
    if begun := _reached(run.out):
        report(f"going on behind step {begun}")
    report(f"verl's output: {log}")
    variables = environment(run.profile.device, metrics, os.environ)
    with log.open("wb") as output:
        process = subprocess.Popen(
            run.command(),
            env=variables,
            cwd=run.out,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _follow(run, process, progress.Follower(metrics), total, report)
        finally:
            _stop(process)
    if process.returncode:
        raise TrainingError(f"verl stopped: {_last_error(log)}, see {log}")


def _follow(
    run: Run,
    process: subprocess.Popen[bytes],
    follower: progress.Follower,
    total: int,
    report: Report,
) -> None:
    log = run.out / "metrics.jsonl"
    ended = False
    while not ended:
        ended = process.poll() is not None
        for step in follower.new():
            progress.append(log, step)
            report(progress.describe(step, total))
            progress.plot(progress.read(log), run.out / "progress.png")
        if not ended:
            time.sleep(POLL_SECONDS)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End verl with all that it started, when it has not ended by itself."""
    for way in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, way)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            continue


def _reached(out: Path) -> int:
    """The last step with a whole checkpoint, 0 for none."""
    note = out / SHARDS / "latest_checkpointed_iteration.txt"
    return int(note.read_text()) if note.is_file() else 0


def _batch(run: Run) -> int:
    return int(run.profile.value("data.train_batch_size", run.extra))


def _epochs(run: Run) -> int:
    return int(run.profile.value("trainer.total_epochs", run.extra))


def _last_error(log: Path) -> str:
    """The last line of a log that names an error, or its last line."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    named = [line for line in lines if "Error" in line]
    return (named or lines or ["it printed nothing"])[-1].strip()[:300]
