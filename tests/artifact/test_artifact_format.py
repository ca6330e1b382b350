"""The manifest is read strictly, and no byte of an artifact changes unnoticed."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import pytest
from variants import variant

from proguard_edge.artifact import (
    Artifact,
    Calibration,
    check_digests,
    check_sizes,
    verify,
    verify_once,
    write_artifact,
)
from proguard_edge.cache import Cache
from proguard_edge.engine.onnx import OnnxEngine
from proguard_edge.errors import ArtifactError, ProGuardEdgeError
from proguard_edge.guard import Guard

DESCRIPTION = {
    "name": "small",
    "engine": "onnx",
    "precision": "int4",
    "modalities": ["text"],
    "modes": ["verdict"],
    "languages": ["en", "de"],
    "model": {"layers": 2},
    "calibration": {"request": {"bias": -0.5, "temperature": 2.0}},
    "limits": {"window_tokens": 300},
    "free_names": False,
    "policy_is_fixed": True,
    "response_line": "always",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that every artifact has, and one more below it."""
    folder = tmp_path / "small"
    (folder / "deep").mkdir(parents=True)
    for name in ("tokenizer.json", "policy.yaml", "template.jinja", "deep/weights.bin"):
        (folder / name).write_bytes(name.encode() * 3)
    write_artifact(folder, DESCRIPTION)
    return folder


def manifest_of(folder: Path) -> dict:
    return json.loads((folder / "artifact.json").read_text(encoding="utf-8"))


def rewrite(folder: Path, **changes: object) -> None:
    manifest = json.dumps({**manifest_of(folder), **changes})
    (folder / "artifact.json").write_text(manifest, encoding="utf-8")


def test_what_was_written_is_read_back(folder):
    found = Artifact.open(str(folder))
    assert (found.name, found.engine, found.precision) == ("small", "onnx", "int4")
    assert (found.modalities, found.modes) == (("text",), ("verdict",))
    assert found.languages == ("en", "de")
    assert found.calibration == {"request": Calibration(-0.5, 2.0)}
    assert found.limits == {"window_tokens": 300}
    assert (found.free_names, found.policy_is_fixed) == (False, True)
    assert found.response_line == "always"
    assert set(found.files) == {
        "tokenizer.json",
        "policy.yaml",
        "template.jinja",
        "deep/weights.bin",
    }
    assert found.files["deep/weights.bin"].size == 3 * len("deep/weights.bin")
    check_digests(found)


def test_writing_the_same_twice_gives_the_same_digest(folder):
    digest = Artifact.open(folder).digest
    assert write_artifact(folder, DESCRIPTION).digest == digest
    assert write_artifact(folder, {**DESCRIPTION, "name": "other"}).digest != digest


def test_a_file_that_the_manifest_lacks_is_an_error(folder):
    with pytest.raises(ArtifactError, match=r"has no vision\.onnx"):
        Artifact.open(folder).path("vision.onnx")


@pytest.mark.parametrize("what", ["nothing there", "a file", "an empty folder", "a folder inside"])
def test_what_is_no_artifact_is_an_error_that_names_the_fix(tmp_path, what):
    path = tmp_path / "x"
    if what == "a file":
        path.write_bytes(b"{}")
    elif what == "an empty folder":
        path.mkdir()
    elif what == "a folder inside":
        (path / "artifact.json").mkdir(parents=True)
    with pytest.raises(ArtifactError, match="proguard-edge export"):
        Artifact.open(path)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"proguard-edge/1"',
        b"{}",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"format": "proguard-edge/2"}',
        b'{"format": ["proguard-edge/1"]}',
        b'{"format": "proguard-edge/1"}',
        b'{"format": "proguard-edge/1", "files": []}',
        b'{"format": "proguard-edge/1", "files": {}}',
        b'{"format": "proguard-edge/1", "files": {"a": {"size": 1}}}',
        b'{"format": "proguard-edge/1", "files": {"a": {"size": 1e999, "sha256": ""}}}',
        b'{"format": "proguard-edge/1", "files": {"a": {"size": 1' + b"0" * 5000 + b"}}}",
    ],
)
def test_a_malformed_manifest_is_an_error(folder, raw):
    (folder / "artifact.json").write_bytes(raw)
    with pytest.raises(ArtifactError):
        Artifact.open(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"modalities": []},
        {"modalities": ["text", "sound"]},
        {"modalities": None},
        {"modes": ["guess"]},
        {"model": None},
        {"model": 3},
        {"response_line": "never"},
        {"calibration": {"request": {"bias": 0}}},
        {"calibration": {"request": {"bias": 0, "temperature": 0}}},
        {"calibration": {"request": {"bias": 0, "temperature": float("nan")}}},
        {"calibration": {"request": {"bias": float("inf"), "temperature": 1}}},
        {"limits": {"window_tokens": "many"}},
        {"limits": {"window_tokens": 0}},
        {"limits": {"window_tokens": 100, "overlap_tokens": 100}},
        {"limits": {"reason_tokens": -1}},
        {"limits": {"reason_tokens": 0}},
        {"limits": {"reason_tokens": float("inf")}},
    ],
    ids=json.dumps,
)
def test_a_manifest_that_makes_no_sense_is_an_error(folder, changes):
    Artifact.open(folder)
    rewrite(folder, **changes)
    with pytest.raises(ArtifactError):
        Artifact.open(folder)


def test_another_version_of_the_format_is_named(folder):
    rewrite(folder, format="proguard-edge/2")
    with pytest.raises(ArtifactError, match=r"'proguard-edge/2', not proguard-edge/1"):
        Artifact.open(folder)


def test_an_oversized_manifest_is_not_even_parsed(folder):
    raw = (folder / "artifact.json").read_bytes()
    limit = 4 << 20
    (folder / "artifact.json").write_bytes(raw + b" " * (limit - len(raw)))
    assert Artifact.open(folder).name == "small"
    (folder / "artifact.json").write_bytes(raw + b" " * (limit + 1 - len(raw)))
    with pytest.raises(ArtifactError, match="larger than"):
        Artifact.open(folder)


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "deep/../../secret",
        "/etc/passwd",
        "..\\secret",
        "C:\\secret",
        "",
        ".",
        "a\0b",
        "a\nb",
        "\ud800",
    ],
)
def test_a_path_outside_the_folder_is_refused(folder, name):
    files = {**manifest_of(folder)["files"], name: {"size": 1, "sha256": "00"}}
    rewrite(folder, files=files)
    with pytest.raises(ArtifactError, match="outside the artifact"):
        Artifact.open(folder)


@pytest.mark.parametrize("required", ["tokenizer.json", "policy.yaml", "template.jinja"])
def test_a_manifest_without_a_required_file_is_an_error(folder, required):
    files = manifest_of(folder)["files"]
    del files[required]
    rewrite(folder, files=files)
    with pytest.raises(ArtifactError, match=required.replace(".", r"\.")):
        Artifact.open(folder)


@pytest.mark.parametrize("kind", ["a folder", "a pipe"])
def test_what_stands_in_a_files_place_but_is_none_is_an_error(folder, kind):
    path = folder / "deep" / "weights.bin"
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    files = manifest_of(folder)["files"]
    files["deep/weights.bin"]["size"] = path.stat().st_size
    rewrite(folder, files=files)
    found = Artifact.open(folder)
    for check in (check_sizes, check_digests, lambda a: verify_once(a, Cache(None))):
        with pytest.raises(ArtifactError, match=r"weights\.bin: not a regular file"):
            check(found)


def test_the_model_of_a_manifest_that_lacks_its_sizes_is_an_error(tiny_onnx, tmp_path):
    copy = shutil.copytree(tiny_onnx, tmp_path / "copy")
    rewrite(copy, model={"layers": 2})
    with pytest.raises(ArtifactError, match="not described"):
        Guard.load(copy, threads=1)


@pytest.mark.parametrize("name", ["vocab", "hidden"])
def test_a_model_of_another_size_than_its_tables_is_an_error(tiny_onnx, tmp_path, name):
    model = Artifact.open(tiny_onnx).model
    copy = variant(tiny_onnx, tmp_path / "copy", model={**model, name: model[name] + 64})
    with pytest.raises(ArtifactError, match=r"embeddings\.npy and its scales are no table"):
        Guard.load(copy, threads=1)


def test_one_flipped_byte_in_any_file_is_found_and_its_file_named(tiny_onnx, tmp_path):
    copy = shutil.copytree(tiny_onnx, tmp_path / "copy")
    found = Artifact.open(copy)
    check_digests(found)
    assert {p.name for p in copy.iterdir()} - {"artifact.json"} == set(found.files)
    for name in found.files:
        path = copy / name
        whole = path.read_bytes()
        for at in (0, len(whole) // 2, len(whole) - 1):
            altered = bytearray(whole)
            altered[at] ^= 1
            path.write_bytes(altered)
            check_sizes(found)
            with pytest.raises(ArtifactError) as caught:
                check_digests(found)
            assert str(caught.value).startswith(f"{path}: altered")
        path.write_bytes(whole)
    check_digests(found)


def test_an_altered_artifact_is_not_loaded(tiny_onnx, tmp_path):
    copy = shutil.copytree(tiny_onnx, tmp_path / "copy")
    cache = Cache(tmp_path / "cache")
    Guard.load(copy, threads=1, cache=cache).close()
    policy = copy / "policy.yaml"
    policy.write_bytes(policy.read_bytes().replace(b"Weapons", b"weapons"))
    with pytest.raises(ArtifactError, match=r"policy\.yaml: altered"):
        Guard.load(copy, threads=1, cache=cache)
    with pytest.raises(ArtifactError, match=r"policy\.yaml: altered"):
        Guard.load(copy, threads=1, cache=cache, verify=True)


def test_a_shortened_and_a_missing_file_are_found_by_their_size_alone(tiny_onnx, tmp_path):
    copy = shutil.copytree(tiny_onnx, tmp_path / "copy")
    found = Artifact.open(copy)
    for name in found.files:
        path = copy / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        with pytest.raises(ArtifactError) as caught:
            check_sizes(found)
        assert str(caught.value).startswith(f"{path}: {len(whole) - 1} bytes")
        path.unlink()
        with pytest.raises(ArtifactError) as caught:
            check_sizes(found)
        assert str(caught.value).startswith(f"{path}: No such file")
        path.write_bytes(whole)
    check_sizes(found)


@pytest.mark.parametrize("name", ["more.bin", "deep/more.bin", "deep/artifact.json", ".hidden"])
def test_a_file_that_nobody_listed_is_named(folder, name):
    found = Artifact.open(folder)
    (folder / name).write_bytes(b"")
    for check in (check_sizes, check_digests, lambda a: verify_once(a, Cache(None))):
        with pytest.raises(ArtifactError) as caught:
            check(found)
        assert str(caught.value) == f"{folder / name}: not listed in artifact.json; remove it"
    # Written again, it is listed.
    check_digests(write_artifact(folder, DESCRIPTION))


def test_an_artifact_with_a_file_too_many_is_not_loaded_even_where_it_passed_before(
    tiny_hf, tmp_path
):
    copy = shutil.copytree(tiny_hf, tmp_path / "copy")
    cache = Cache(tmp_path / "cache")
    verify_once(Artifact.open(copy), cache)
    (copy / "hf" / "adapter_config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"adapter_config\.json: not listed"):
        Guard.load(copy, threads=1, cache=cache)


def test_a_link_to_a_folder_hides_no_file(folder, tmp_path):
    (folder / "deep").rename(tmp_path / "elsewhere")
    (folder / "deep").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="deep: a link to a folder"):
        check_sizes(Artifact.open(folder))
    (folder / "deep").unlink()
    (tmp_path / "elsewhere").rename(folder / "deep")
    (folder / "more").symlink_to(tmp_path)
    with pytest.raises(ArtifactError, match="more: a link to a folder"):
        check_sizes(Artifact.open(folder))


def test_links_to_the_listed_files_and_to_the_artifact_are_followed(folder, tmp_path):
    blob = tmp_path / "blob"
    (folder / "policy.yaml").rename(blob)
    (folder / "policy.yaml").symlink_to(blob)
    (tmp_path / "link").symlink_to(folder)
    check_digests(Artifact.open(tmp_path / "link"))
    (folder / "deep" / "more").write_bytes(b"")
    with pytest.raises(ArtifactError, match="more: not listed"):
        check_sizes(Artifact.open(tmp_path / "link"))


def test_an_altered_manifest_is_found_by_who_knows_its_digest(folder):
    digest = Artifact.open(folder).digest
    check_digests(Artifact.open(folder), digest.upper())
    rewrite(folder, policy_is_fixed=False)
    altered = Artifact.open(folder)
    check_digests(altered)
    with pytest.raises(ArtifactError, match=rf"artifact\.json: digest .*, expected {digest}"):
        check_digests(altered, digest)


@pytest.fixture
def digested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose digests were computed."""
    names: list[str] = []
    real = verify._read

    def spy(path: Path) -> tuple[str, str]:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(verify, "_read", spy)
    return names


def test_files_that_passed_are_not_read_again_until_they_change(folder, tmp_path, digested):
    cache = Cache(tmp_path / "cache")
    found = Artifact.open(folder)
    verify_once(found, cache)
    assert len(digested) == 4
    verify_once(found, Cache(tmp_path / "cache"))
    assert len(digested) == 4

    weights = folder / "deep" / "weights.bin"
    status = weights.stat()
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    verify_once(found, cache)
    assert len(digested) == 8

    weights.write_bytes(weights.read_bytes() + b"more")
    with pytest.raises(ArtifactError, match=r"weights\.bin"):
        verify_once(found, cache)


def test_bytes_that_changed_under_the_old_time_are_read_again(folder, tmp_path):
    cache = Cache(tmp_path / "cache")
    found = Artifact.open(folder)
    verify_once(found, cache)
    weights = folder / "deep" / "weights.bin"
    status = weights.stat()
    weights.write_bytes(weights.read_bytes().swapcase())
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert weights.stat().st_mtime_ns == status.st_mtime_ns
    with pytest.raises(ArtifactError, match=r"weights\.bin: altered"):
        verify_once(found, cache)


def test_files_that_did_not_pass_are_not_remembered(folder, tmp_path, digested):
    cache = Cache(tmp_path / "cache")
    weights = folder / "deep" / "weights.bin"
    weights.write_bytes(weights.read_bytes().swapcase())
    found = Artifact.open(folder)
    for _ in range(2):
        digested.clear()
        with pytest.raises(ArtifactError, match="altered"):
            verify_once(found, cache)
        assert "weights.bin" in digested


class Swapping(Cache):
    """Looks whether files passed, and then has a whole artifact in their place."""

    def __init__(self, folder: Path, altered: Path, whole: Path) -> None:
        super().__init__(folder)
        self.altered, self.whole = altered, whole

    def has(self, name: Path | str) -> bool:
        found = super().has(name)
        self.altered.rename(self.altered.with_name("aside"))
        self.whole.rename(self.altered)
        return found

    def back(self) -> None:
        self.altered.rename(self.whole)
        self.altered.with_name("aside").rename(self.altered)


def test_files_that_another_artifact_was_read_for_are_not_remembered(folder, tmp_path):
    whole = shutil.copytree(folder, tmp_path / "whole")
    weights = folder / "deep" / "weights.bin"
    weights.write_bytes(weights.read_bytes().swapcase())
    cache = Swapping(tmp_path / "cache", folder, whole)
    with pytest.raises(ArtifactError, match="small: changed while it was read"):
        verify_once(Artifact.open(folder), cache)
    cache.back()
    with pytest.raises(ArtifactError, match=r"weights\.bin: altered"):
        verify_once(Artifact.open(folder), Cache(tmp_path / "cache"))


def test_a_file_that_is_written_while_it_is_read_is_named(folder, monkeypatch):
    real = verify.hashlib.file_digest

    def slow(file, name):
        digest = real(file, name)
        if Path(file.name).name == "policy.yaml":
            (folder / "policy.yaml").write_bytes(b"more")
        return digest

    monkeypatch.setattr(verify.hashlib, "file_digest", slow)
    with pytest.raises(ArtifactError, match=r"policy\.yaml: changed while it was read"):
        check_digests(Artifact.open(folder))


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_cache_folder_that_others_may_write_is_not_used(folder, tmp_path, digested, mode):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    cache = Cache(shared)
    for _ in range(2):
        verify_once(Artifact.open(folder), cache)
    assert len(digested) == 8
    assert not cache.write("x", b"y")
    assert list(shared.iterdir()) == []


def test_a_new_cache_folder_is_for_its_owner_only(tmp_path):
    cache = Cache(tmp_path / "a" / "b")
    assert cache.write("deep/x", b"one ", b"two")
    path = cache.path("deep/x")
    assert path is not None
    assert path.read_bytes() == b"one two"
    for made in (tmp_path / "a" / "b", path.parent):
        assert made.stat().st_mode & 0o077 == 0


def fill(folder: Path, sizes: dict[str, int]) -> None:
    """Files of these sizes, the first is the oldest."""
    folder.mkdir(exist_ok=True)
    for age, (name, size) in enumerate(sizes.items()):
        (folder / name).write_bytes(bytes(size))
        os.utime(folder / name, (1000 + age, 1000 + age))


@pytest.mark.parametrize(
    ("limit", "kept"),
    [(1000, "oldest middle newest"), (60, "oldest middle newest"), (59, "middle newest"),
     (50, "middle newest"), (49, "newest"), (29, ""), (0, "")],
)  # fmt: skip
def test_pruning_removes_the_oldest_until_the_rest_fits(tmp_path, limit, kept):
    cache = Cache(tmp_path / "cache")
    # In another order by name, and by size, than by age.
    fill(tmp_path / "cache" / "prefix", {"oldest": 10, "middle": 20, "newest": 30})
    fill(tmp_path / "cache" / "verified", {"x": 100})
    cache.prune("prefix", limit)
    found = {path.name for path in (tmp_path / "cache" / "prefix").iterdir()}
    assert found == set(kept.split())
    assert cache.has("verified/x")


def test_pruning_gets_past_what_is_no_file_and_what_is_not_there(tmp_path):
    cache = Cache(tmp_path / "cache")
    cache.prune("prefix", 0)
    folder = tmp_path / "cache" / "prefix"
    (folder / "a folder").mkdir(parents=True)
    os.utime(folder / "a folder", (1, 1))
    fill(folder, {"file": 10})
    cache.prune("prefix", 0)
    assert [path.name for path in folder.iterdir()] == ["a folder"]
    Cache(None).prune("prefix", 0)


@pytest.mark.parametrize("block", ["prefix", "verified"])
def test_a_cache_that_cannot_be_written_costs_no_verdict(tiny_onnx, tmp_path, block):
    cache = Cache(tmp_path / "cache")
    (tmp_path / "cache" / block).write_bytes(b"a file where a folder should be")
    assert not cache.write(f"{block}/x", b"y")
    with Guard.load(tiny_onnx, threads=1, cache=cache) as guard:
        assert guard.moderate("hello").evaluated == ("user_text",)


def damage(raw: bytes, how: str) -> bytes:
    """The bytes of a prefix file after an accident."""
    middle = len(raw) // 2
    flipped = raw[:middle] + bytes([raw[middle] ^ 0x40]) + raw[middle + 1 :]
    return {
        "flipped": flipped,
        "shortened": raw[:-4],
        "longer": raw + bytes(4),
        "empty": b"",
        "zeros": bytes(len(raw)),
        "digest flipped": bytes([raw[0] ^ 1]) + raw[1:],
    }[how]


def test_a_damaged_prefix_cache_is_computed_again_and_never_used(tiny_onnx, tmp_path, monkeypatch):
    computed: list[int] = []
    real = OnnxEngine.decode

    def spy(self, buffer, past, embeddings, positions):
        computed.extend([len(embeddings)] if past == 0 else [])
        return real(self, buffer, past, embeddings, positions)

    monkeypatch.setattr(OnnxEngine, "decode", spy)

    def scores() -> tuple[float, int]:
        computed.clear()
        with Guard.load(tiny_onnx, threads=1, cache=Cache(tmp_path / "cache")) as guard:
            verdict = guard.moderate("hello", response="there")
        return (verdict.request.score, verdict.response.score, verdict.category), len(computed)

    fresh, times = scores()
    assert times == 1
    (path,) = (tmp_path / "cache" / "prefix").iterdir()
    whole = path.read_bytes()
    assert scores() == (fresh, 0)
    for how in ("flipped", "shortened", "longer", "empty", "zeros", "digest flipped"):
        path.write_bytes(damage(whole, how))
        assert scores() == (fresh, 1), how
        assert path.read_bytes() == whole, how
    path.unlink()
    path.mkdir()
    assert scores() == (fresh, 1)


def test_an_artifact_without_its_engines_file_is_an_error_of_ours(tiny_onnx, tmp_path):
    copy = shutil.copytree(tiny_onnx, tmp_path / "copy")
    (copy / "decoder.onnx").write_bytes(b"not a graph")
    manifest = manifest_of(copy)
    write_artifact(copy, {k: v for k, v in manifest.items() if k not in ("files", "format")})
    with pytest.raises(ProGuardEdgeError, match=r"decoder\.onnx"):
        Guard.load(copy, threads=1)


BOUNDS = {
    "request": [
        {"rate": 0.02, "threshold": 0.1, "confidence": 0.95, "rows": 400},
        {"rate": 0.1, "threshold": 0.7, "confidence": 0.95, "rows": 400},
    ]
}


def bounding(folder: Path, bounds: object) -> Artifact:
    for name in ("tokenizer.json", "policy.yaml", "template.jinja"):
        (folder / name).write_text("{}")
    return write_artifact(folder, {**DESCRIPTION, "miss_bounds": bounds})


@pytest.mark.parametrize("asked", [0.02, 0.03, 0.099])
def test_a_bound_makes_its_threshold_one_half(tmp_path: Path, asked: float) -> None:
    artifact = bounding(tmp_path, BOUNDS)
    found = artifact.bounded(asked)
    own, moved = artifact.calibration["request"], found.calibration["request"]
    at_threshold = own.bias + own.temperature * math.log(0.1 / 0.9)
    assert own.score(at_threshold) == pytest.approx(0.1)
    assert moved.score(at_threshold) == pytest.approx(0.5)
    assert found.max_miss_rate == asked


def test_a_loose_bound_never_raises_the_threshold(tmp_path: Path) -> None:
    artifact = bounding(tmp_path, BOUNDS)
    assert artifact.bounded(0.5).calibration == artifact.calibration


def test_a_bound_that_is_not_held_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no bound of 0.01 on missed requests; it holds 0.02"):
        bounding(tmp_path, BOUNDS).bounded(0.01)


@pytest.mark.parametrize("bounds", [{}, {"request": []}])
def test_an_artifact_without_bounds_says_so(tmp_path: Path, bounds: object) -> None:
    with pytest.raises(ArtifactError, match=r"bounds no miss rate|holds none"):
        bounding(tmp_path, bounds).bounded(0.05)


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"threshold": math.nan}, {"rate": 1.5}])
def test_a_bound_that_bounds_nothing_is_refused(tmp_path: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(ArtifactError, match="malformed"):
        bounding(tmp_path, {"request": [{**BOUNDS["request"][0], **wrong}]})
