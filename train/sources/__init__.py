"""Readers of public safety data sets, all giving the one `Row`.

    from proguard_edge.train.sources import read_rows
    rows = list(read_rows(Path("xstest_prompts.csv")))

A path is a file or a folder of shards. The kind is recognised by the columns, or named; `SOURCES`
lists the kinds. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proguard_edge.train.rows import Row, RowError, read_jsonl
from proguard_edge.train.sources import image_sets, text_sets
from proguard_edge.train.sources.files import Record, SourceError, columns, data_files, each
from proguard_edge.train.sources.pictures import MissingPictureError, Pictures

__all__ = ["SOURCES", "MissingPictureError", "RowError", "Source", "SourceError", "read_rows"]

Convert = Callable[[Record, Pictures], dict[str, Any] | None]


@dataclass(frozen=True)
class Source:
    """A kind of data set.

    `columns`: what its records must have; `any_of`: of these at least one. `convert` is None for
    our own format. `revise` sees all rows, for what one record alone cannot tell.
    """

    name: str
    licence: str
    columns: frozenset[str]
    convert: Convert | None
    any_of: frozenset[str] = frozenset()
    revise: Callable[[Iterator[Row]], Iterator[Row]] = iter

    def fits(self, found: frozenset[str]) -> bool:
        """Whether records with these columns are of this kind."""
        return self.columns <= found and (not self.any_of or bool(self.any_of & found))


def _source(name: str, licence: str, needed: str, convert: Convert, any_of: str = "") -> Source:
    return Source(name, licence, frozenset(needed.split()), convert, frozenset(any_of.split()))


# The licence is the one its publisher states. In this order a kind is recognised: the first whose
# columns fit, so that those with the most particular names come first.
_ALL = (
    Source("unified", "", frozenset({"id", "source", "licence", "request_label"}), None),
    _source("proguard", "not stated", "modality message query_label category", image_sets.proguard),
    _source("harmbench", "MIT", "Behavior SemanticCategory", text_sets.harmbench),
    _source("toxicchat", "CC-BY-NC-4.0", "user_input model_output toxicity", text_sets.toxicchat),
    _source(
        "aegis2", "CC-BY-4.0", "prompt response prompt_label violated_categories", text_sets.aegis2
    ),
    _source("wildguard", "ODC-BY", "prompt prompt_harm_label", text_sets.wildguard),
    _source("beavertails", "CC-BY-NC-4.0", "prompt response is_safe", text_sets.beavertails),
    _source(
        "beavertails_v",
        "CC-BY-NC-4.0",
        "question image response is_response_safe",
        image_sets.beavertails_v,
    ),
    Source(
        "llavaguard",
        "Apache-2.0 (annotations; pictures under their own terms)",
        frozenset({"rating", "category"}),
        image_sets.llavaguard,
        frozenset({"image", "url"}),
        image_sets.without_other_policies,
    ),
    _source("simplesafetytests", "CC-BY-2.0", "prompt harm_area", text_sets.simple_safety_tests),
    _source("xstest", "CC-BY-4.0", "prompt type", text_sets.xstest),
    Source(
        "openai_moderation",
        "MIT",
        frozenset({"prompt"}),
        text_sets.openai_moderation,
        text_sets.MODERATION_CODES,
    ),
)
SOURCES: dict[str, Source] = {source.name: source for source in _ALL}


def read_rows(
    path: Path,
    kind: str = "auto",
    images: Path | None = None,
    skip_missing_images: bool = False,
) -> Iterator[Row]:
    """Rows of a file or of a folder of shards, in file order; ids are source, file and number.

    `kind`: a name of `SOURCES`, or "auto". `images`: where pictures that stand inside the rows are
    written. `skip_missing_images`: leave out rows whose picture is not in the data's folder, for
    sets that ship links of which some are dead.

    Raises SourceError at once for a path or a kind that is not known; RowError, while reading, for
    a malformed row, naming file and line.
    """
    files = data_files(path)
    source = _named(kind) if kind != "auto" else _recognise(files[0])
    root = path if path.is_dir() else path.parent
    pictures = Pictures(root, images)
    rows = (
        row for file in files for row in _rows(source, file, root, pictures, skip_missing_images)
    )
    return source.revise(rows)


def _named(kind: str) -> Source:
    if kind not in SOURCES:
        raise SourceError(f"there is no kind {kind!r}; there are {', '.join(SOURCES)}")
    return SOURCES[kind]


def _recognise(path: Path) -> Source:
    found = columns(path)
    for source in SOURCES.values():
        if source.fits(found):
            return source
    raise SourceError(
        f"{path}: columns {', '.join(sorted(found)) or '(none)'} are of no known kind; "
        f"name one of {', '.join(SOURCES)}"
    )


def _rows(
    source: Source, file: Path, root: Path, pictures: Pictures, skip_missing: bool
) -> Iterator[Row]:
    if source.convert is None:
        yield from read_jsonl(file)
        return
    convert = source.convert

    def fields(record: Record) -> dict[str, Any] | None:
        try:
            return convert(record, pictures)
        except MissingPictureError:
            if skip_missing:
                return None
            raise

    stem = "-".join(file.relative_to(root).parts)
    stem = stem.removesuffix(".gz").rpartition(".")[0]
    for number, made in enumerate(each(fields, file)):
        if made is not None:
            raw = {"id": f"{source.name}-{stem}-{number:06d}", "source": source.name}
            yield Row.from_dict({**raw, "licence": source.licence, **made})
