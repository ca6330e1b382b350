"""Supervised fine-tuning of a Qwen2.5-VL checkpoint to verdicts without reasoning.

transformers' Trainer on whole prompts, text and images, under any template and policy; for the
starter alone `train.starter` shares the policy prefix between rows and is several times faster on a
CPU. Checkpoints as it goes and resumes from the last one.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from proguard_edge.errors import ArtifactError, InputError
from proguard_edge.export.checkpoint import copy_companions, image_processor
from proguard_edge.policy import Policy
from proguard_edge.prompt import PromptEncoder, Template
from proguard_edge.train.augment import Hiding
from proguard_edge.train.rows import Row
from proguard_edge.train.sft_data import Sample, SampleBuilder, collate

PARTS = ("all", "decoder", "vision")


@dataclass(frozen=True)
class Settings:
    """What a run does. `train`: which part learns; the embeddings learn with "all" only.

    frozen_layers: the lower decoder layers that keep their weights. accumulate: batches a step.
    """

    steps: int
    batch: int = 4
    accumulate: int = 1
    rate: float = 1e-5
    train: str = "decoder"
    frozen_layers: int = 0
    save_every: int = 200
    seed: int = 0


class SampleSet:
    """Rows as a map-style dataset; a sample is made when it is asked for."""

    def __init__(self, rows: Sequence[Row], builder: SampleBuilder) -> None:
        self.rows = [row for row in rows if builder.usable(row)]
        self._builder = builder
        if not self.rows:
            raise InputError("no row has both something to read and a label")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        return self._builder(self.rows[index])


def builder_of(
    checkpoint: Path,
    template: Template,
    policy: Policy,
    *,
    hiding: Hiding | None,
    seed: int,
    response_line: str = "given",
) -> SampleBuilder:
    """Prompts and answers for a checkpoint folder; with `hiding` policies change from row to row.

    Raises ArtifactError, PolicyError.
    """
    tokenizer = checkpoint / "tokenizer.json"
    if not tokenizer.is_file():
        raise ArtifactError(f"{checkpoint}: no tokenizer.json; give a checkpoint folder")
    encoder = PromptEncoder(tokenizer, template, policy)
    (end,) = encoder.encode_static("<|im_end|>")
    return SampleBuilder(
        encoder,
        image_processor(checkpoint),
        end,
        seed,
        hiding=hiding,
        always_response=response_line == "always",
    )


def fine_tune(
    checkpoint: Path,
    rows: Sequence[Row],
    builder: SampleBuilder,
    settings: Settings,
    out: Path,
    report: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Path:
    """Train, and write the checkpoint folder `out/checkpoint`, which is returned.

    report gets step, loss, tokens/s and learning rate now and then; `out/log.jsonl` has them too.
    Raises ArtifactError when the checkpoint cannot be loaded, InputError when no row can be used.
    """
    data = SampleSet(rows, builder)
    model = optimise(checkpoint, data, collate, settings, out, report)
    about = {
        "method": "supervised fine-tuning",
        "settings": asdict(settings),
        "policy": builder.encoder.policy.digest(),
        "augmented": builder.hiding is not None,
        "rows": rows_by_source(data.rows),
    }
    return write_checkpoint(model, checkpoint, out / "checkpoint", about)


class Loss(Protocol):
    """The mean loss of a batch, a scalar, where it is not the model's own."""

    def __call__(self, model: Any, batch: dict[str, Any]) -> Any: ...

    def figures(self) -> dict[str, float]:
        """What else to log: means since the last call."""
        ...


def optimise(
    checkpoint: Path,
    data: Any,
    collate: Callable[..., dict[str, Any]],
    settings: Settings,
    out: Path,
    report: Callable[[dict[str, Any]], None],
    loss: Loss | None = None,
) -> Any:
    """The trained model; `out/state` is what a stopped run goes on from.

    data: a map-style dataset; collate: makes a batch of its items, given the keyword arguments
    image_token_id and merge_size. Raises ArtifactError when the checkpoint cannot be loaded.
    """
    import torch
    from transformers import PrinterCallback, Trainer, TrainingArguments
    from transformers.trainer_utils import get_last_checkpoint

    class ResumingTrainer(Trainer):
        """transformers 5 loads a Qwen2.5-VL checkpoint under other names than it saved it, which
        leaves the model as it was; so the weights are read with `from_pretrained` before."""

        def _load_from_checkpoint(self, *_: Any, **__: Any) -> None:
            pass

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if loss is None:
                return super().compute_loss(model, inputs, *args, **kwargs)
            return loss(model, dict(inputs))

    state = out / "state"
    last = get_last_checkpoint(str(state)) if state.is_dir() else None
    model = load_model(Path(last) if last else checkpoint)
    _choose_weights(model, settings)
    config = model.config
    cuda = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(state),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch,
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=settings.rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, settings.steps // 20),
        logging_steps=max(1, min(10, settings.steps // 5)),
        save_steps=settings.save_every,
        save_total_limit=1,
        seed=settings.seed,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        include_num_input_tokens_seen="all",
        use_cpu=not cuda,
        bf16=cuda,
        dataloader_pin_memory=cuda,
    )
    trainer = ResumingTrainer(
        model=model,
        args=arguments,
        train_dataset=data,
        data_collator=partial(
            collate,
            image_token_id=config.image_token_id,
            merge_size=config.vision_config.spatial_merge_size,
        ),
        callbacks=[_progress(out / "log.jsonl", report, loss.figures if loss else dict)],
    )
    if loss is not None:
        # Otherwise the loss is taken for a sum over all batches of a step, and is not divided.
        trainer.model_accepts_loss_kwargs = False
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last)
    return trainer.model


def load_model(checkpoint: Path, dtype: str = "float32") -> Any:
    """A checkpoint folder's model on the CPU. Raises ArtifactError."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    loader: Any = Qwen2_5_VLForConditionalGeneration
    try:
        return loader.from_pretrained(
            checkpoint, dtype=getattr(torch, dtype), local_files_only=True
        )
    except (OSError, ValueError) as error:
        what = str(error).strip().splitlines()[0]
        raise ArtifactError(f"{checkpoint}: cannot be loaded: {what}") from None


def _choose_weights(model: Any, settings: Settings) -> None:
    if settings.train not in PARTS:
        raise ValueError(f"train {settings.train!r}: one of {', '.join(PARTS)}")
    decoder, vision = model.model.language_model, model.model.visual
    for parameter in model.parameters():
        parameter.requires_grad_(settings.train == "all")
    if settings.train == "decoder":
        for module in (*decoder.layers, decoder.norm):
            module.requires_grad_(True)
    if settings.train == "vision":
        vision.requires_grad_(True)
    else:
        for layer in decoder.layers[: settings.frozen_layers]:
            layer.requires_grad_(False)


def _progress(
    path: Path,
    report: Callable[[dict[str, Any]], None],
    figures: Callable[[], dict[str, float]],
) -> Any:
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        """Logs to a file and to the caller; speed is that of this start, not of a resumed run."""

        def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            self.begin, self.first = time.time(), state.num_input_tokens_seen

        def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" not in (logs or {}):
                return
            tokens = state.num_input_tokens_seen - self.first
            line = {
                "step": state.global_step,
                "loss": round(float(logs["loss"]), 4),
                "rate": logs.get("learning_rate"),
                "tokens_per_second": round(tokens / max(1e-9, time.time() - self.begin), 1),
                **figures(),
            }
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            report(line)

    return Progress()


def rows_by_source(rows: Iterable[Row]) -> dict[str, int]:
    """How many rows of each source and licence."""
    return dict(sorted(Counter(f"{r.source} ({r.licence})" for r in rows).items()))


def write_checkpoint(model: Any, source: Path, folder: Path, about: dict[str, Any]) -> Path:
    """Write the model with what stands beside the weights in `source`; `training.json` is `about`.

    Returns the folder.
    """
    model.save_pretrained(folder)
    copy_companions(source, folder)
    (folder / "training.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return folder
