"""Distillation: a checkpoint learns from a larger model, or one that reasons, to answer at once.

The teacher is known by its verdicts, by its logits in process, or by both (`distill_data`,
`distill_loss`). A student may be its teacher with some of the layers (`student_of`). Whole prompts,
texts and images, on `train.sft`'s trainer; `distill_prefix` is the fast way for texts on a CPU.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from proguard_edge.errors import ArtifactError, InputError, TrainingError
from proguard_edge.export.checkpoint import Checkpoint, read_json
from proguard_edge.export.distill_batch import Distillation, LessonSet, collate_lessons
from proguard_edge.export.distill_data import Counts, Lesson, Trust, VerdictFile
from proguard_edge.export.distill_loss import Mixture
from proguard_edge.train.sft import Settings, load_model, optimise, rows_by_source, write_checkpoint
from proguard_edge.train.sft_data import SampleBuilder
from proguard_edge.train.student import make_student

Report = Callable[[dict[str, Any]], None]
# A run may be given more of these when it is run again.
AMOUNTS = {"steps", "tokens", "rounded_tokens", "save_every"}
PICTURES = ("patch_size", "spatial_merge_size", "temporal_patch_size")


@dataclass(frozen=True)
class Teaching:
    """Who teaches, and how much. model: the teacher's checkpoint folder, for logits in process.

    start: the checkpoint that the student was, or of which it has `layers`.
    """

    mixture: Mixture
    model: Path | None = None
    verdicts: VerdictFile | None = None
    trust: Trust = "teacher"
    start: Path | None = None
    layers: tuple[int, ...] | None = None

    def record(self) -> dict[str, Any]:
        """For `training.json`."""
        about: dict[str, Any] = {
            "method": "distillation",
            **asdict(self.mixture),
            "trust": self.trust if self.verdicts is not None else "rows",
        }
        if self.layers is not None:
            about["layers"] = list(self.layers)
        if self.model is not None:
            about["teacher"] = Checkpoint(self.model).digest()
        if (verdicts := self.verdicts) is not None:
            about["verdicts"] = {
                "digest": verdicts.digest,
                "artifacts": list(verdicts.artifacts),
                "modes": list(verdicts.modes),
            }
        # Who is taught by a model, or begins as one, inherits the terms of what that was taught.
        for name, folder in (("earlier", self.start), ("teacher_training", self.model)):
            if folder is not None and (folder / "training.json").is_file():
                about[name] = read_json(folder / "training.json")
        return about


def distil(
    checkpoint: Path,
    lessons: Sequence[Lesson],
    counts: Counts,
    builder: SampleBuilder,
    teaching: Teaching,
    settings: Settings,
    out: Path,
    report: Report = lambda _: None,
) -> Path:
    """Train the student in `checkpoint`, and write the folder `out/checkpoint`, which is returned.

    report gets step, loss, its two parts, the share of labels on which student and teacher agree,
    and tokens/s now and then; `out/log.jsonl` has them too. Run again, it goes on where it was.
    Raises ArtifactError, InputError, TrainingError.
    """
    import torch

    dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    teacher = teacher_for(checkpoint, teaching.model, dtype) if teaching.model else None
    data = LessonSet(lessons, builder, counts)
    about = {
        **teaching.record(),
        "settings": asdict(settings),
        "policy": builder.encoder.policy.digest(),
        "template": builder.encoder.template.digest(),
        "augmented": builder.hiding is not None,
        "counts": asdict(counts),
        "rows": rows_by_source(lesson.row for lesson in data.lessons),
    }
    same_run(out, about, checkpoint, data.lessons)
    loss = Distillation(teaching.mixture, teacher)
    model = optimise(checkpoint, data, collate_lessons, settings, out, report, loss)
    return write_checkpoint(model, checkpoint, out / "checkpoint", about)


def teacher_for(student: Path, teacher: Path, dtype: str = "float32") -> Any:
    """The teacher's model, without gradients, on the CPU.

    Raises ArtifactError when it cannot read the ids and patches that are made for the student.
    """
    own, other = Checkpoint(student), Checkpoint(teacher)
    words, others = (
        Tokenizer.from_file(str(c.folder / "tokenizer.json")).get_vocab() for c in (own, other)
    )
    if words != others:
        raise ArtifactError(
            f"{teacher}: another vocabulary than the student's; let it judge the rows with "
            "`proguard-edge moderate-batch`, and give --verdicts instead of --teacher"
        )
    for name in PICTURES:
        if getattr(own.config.vision_config, name) != getattr(other.config.vision_config, name):
            raise ArtifactError(f"{teacher}: another {name} than the student's; give --verdicts")
    return load_model(teacher, dtype).eval().requires_grad_(False)


def spread(keep: int, layers: int) -> tuple[int, ...]:
    """Indices of `keep` of so many layers, evenly spread, the first and the last among them.

    Raises InputError unless 2 <= keep <= layers.
    """
    if not 2 <= keep <= layers:
        raise InputError(
            f"--keep {keep}: the checkpoint has {layers} layers; keep 2 or more of them"
        )
    return tuple(round(i * (layers - 1) / (keep - 1)) for i in range(keep))


def student_of(checkpoint: Path, layers: Sequence[int], out: Path) -> Path:
    """The checkpoint with these of its layers, in the folder `out/student`, made once.

    Raises ArtifactError, and TrainingError where the folder holds a student of other layers.
    """
    folder, wanted = out / "student", {"of": Checkpoint(checkpoint).digest(), "layers": [*layers]}
    if folder.is_dir():
        if read_json(folder / "training.json") != wanted:
            raise TrainingError(f"{folder}: made of other layers; choose another run folder")
        return folder
    temporary = out / ".student"
    if temporary.exists():
        shutil.rmtree(temporary)
    make_student(checkpoint, temporary, layers)
    (temporary / "training.json").write_text(json.dumps(wanted) + "\n", encoding="utf-8")
    temporary.rename(folder)
    return folder


def same_run(out: Path, about: dict[str, Any], student: Path, lessons: Iterable[Lesson]) -> None:
    """Note in `out/run.json` what a run is made of, or compare with what it was begun with.

    The amount of training may change. Raises TrainingError for anything else.
    """
    state = hashlib.sha256()
    for lesson in lessons:
        row = lesson.row
        state.update(repr((row.id, row.request_label, row.response_label, row.category)).encode())
    settings = {k: v for k, v in about["settings"].items() if k not in AMOUNTS}
    own = {**about, "settings": settings, "rows": state.hexdigest()}
    own["student"] = Checkpoint(student).digest()
    own = json.loads(json.dumps(own))
    path = out / "run.json"
    if path.is_file():
        begun = read_json(path)
        if other := sorted(k for k in {*own, *begun} if own.get(k) != begun.get(k)):
            raise TrainingError(
                f"{out}: was begun with other {', '.join(other)}; repeat its options, or choose "
                "another folder"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(own, indent=1) + "\n", encoding="utf-8")
