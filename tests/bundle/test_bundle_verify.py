"""A bundle is what its maker signed, to the last byte, or an error that names the file."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("model_signing")

from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import FILES, keys, small_bundle, spans, stand_in

from proguard_edge.artifact import Artifact, check_digests, check_signature, sign_artifact
from proguard_edge.bundle import archive
from proguard_edge.bundle.create import SCRIPT, Plan, _artifacts, create
from proguard_edge.bundle.verify import changes, unpack, verify
from proguard_edge.cli import main
from proguard_edge.errors import ArtifactError
from proguard_edge.signature import G, N, P, lower, public_key, verifies
from proguard_edge.starter import STARTER


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return keys(tmp_path_factory.mktemp("keys") / "pair")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, pair: tuple[Path, str]) -> Path:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "small.pgb", pair[0])


def test_a_whole_bundle_verifies_and_unpacks_and_is_a_tar(
    bundle: Path, pair: tuple[Path, str], tmp_path: Path
) -> None:
    manifest = verify(bundle, pair[1])
    assert [entry.path for entry in manifest.files] == sorted(FILES)
    unpack(bundle, pair[1], tmp_path / "out")
    for path, content in FILES.items():
        assert (tmp_path / "out" / path).read_bytes() == content
    with tarfile.open(bundle) as tar:
        assert tar.getnames() == ["manifest.json", "manifest.sig", *sorted(FILES)]


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_changed_byte_is_found_and_its_file_named(
    bundle: Path, pair: tuple[Path, str], tmp_path: Path, data: st.DataObject
) -> None:
    good = bundle.read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != good[place]))
    broken = tmp_path / "broken.pgb"
    broken.write_bytes(good[:place] + bytes([byte]) + good[place + 1 :])
    named = [name for offset, name in spans(bundle) if offset <= place][-1]
    with pytest.raises(ArtifactError) as caught:
        verify(broken, pair[1])
    # A changed manifest may show as a changed file or signature of it, never as nothing.
    assert named in str(caught.value) or named == "manifest.json"


@pytest.mark.parametrize("cut", [1, 511, 512, 5000, 10240])
def test_a_bundle_that_ends_early_or_late_is_refused(
    bundle: Path, pair: tuple[Path, str], tmp_path: Path, cut: int
) -> None:
    good, broken = bundle.read_bytes(), tmp_path / "broken.pgb"
    for raw in (good[:-cut], good + b"\0" * cut, good + b"x" * cut):
        broken.write_bytes(raw)
        with pytest.raises(ArtifactError):
            verify(broken, pair[1])


def test_another_key_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"manifest\.sig: signed with another key"):
        verify(bundle, keys(tmp_path / "others")[1])


def test_a_stripped_signature_is_refused(pair: tuple[Path, str], tmp_path: Path) -> None:
    unsigned = small_bundle(tmp_path / "unsigned.pgb")
    assert verify(unsigned, None).name == "small"
    with pytest.raises(ArtifactError, match=r"manifest\.sig: the bundle is not signed"):
        verify(unsigned, pair[1])


def test_a_swapped_file_is_refused_even_with_its_digest_in_the_list(
    bundle: Path, pair: tuple[Path, str], tmp_path: Path
) -> None:
    other = small_bundle(tmp_path / "other.pgb", files={**FILES, "sbom.cdx.json": b"{}\n"})
    with archive.opened(bundle) as stream:
        archive.head(stream, "manifest.json")
        proof = archive.head(stream, "manifest.sig")
    with archive.opened(other) as stream:
        manifest = archive.head(stream, "manifest.json").replace(b"false", b"true", 1)
    writer = archive.Writer(tmp_path / "swapped.pgb")
    writer.add("manifest.json", manifest)
    writer.add("manifest.sig", proof)
    for path, content in sorted({**FILES, "sbom.cdx.json": b"{}\n"}.items()):
        writer.add(path, content)
    writer.close()
    with pytest.raises(ArtifactError, match=r"manifest\.json: was altered after it was signed"):
        verify(tmp_path / "swapped.pgb", pair[1])


@pytest.mark.parametrize("path", ["../evil", "/etc/passwd", "a/../../b", "a//b", "./a", "a\\b"])
def test_paths_that_lead_outside_are_refused(path: str, tmp_path: Path) -> None:
    manifest = {
        "format": "proguard-edge-bundle/1",
        "name": "x",
        "release": 1,
        "target": "cpu",
        "python": "3.11",
        "stages": [],
        "artifacts": [],
        "files": [{"path": path, "size": 0, "sha256": hashlib.sha256(b"").hexdigest()}],
    }
    writer = archive.Writer(tmp_path / "evil.pgb")
    writer.add("manifest.json", json.dumps(manifest).encode())
    writer.close()
    with pytest.raises(ArtifactError, match="outside the bundle"):
        unpack(tmp_path / "evil.pgb", None, tmp_path / "out")


def test_volumes_are_read_as_one_and_a_missing_one_is_named(
    pair: tuple[Path, str], tmp_path: Path
) -> None:
    whole = small_bundle(tmp_path / "whole.pgb", pair[0])
    small_bundle(tmp_path / "parts.pgb", pair[0], part=3000)
    parts = sorted(tmp_path.glob("parts.pgb.*"))
    assert len(parts) > 3
    assert b"".join(part.read_bytes() for part in parts) == whole.read_bytes()
    assert verify(tmp_path / "parts.pgb", pair[1]) == verify(parts[0], pair[1])
    parts[1].unlink()
    with pytest.raises(ArtifactError, match=r"parts\.pgb\.002: this volume is missing"):
        verify(tmp_path / "parts.pgb", pair[1])


def test_the_same_inputs_give_the_same_bytes(pair: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    one = small_bundle(tmp_path / "one.pgb", pair[0])
    other = small_bundle(tmp_path / "elsewhere" / "other.pgb", pair[0])
    assert one.read_bytes() == other.read_bytes()
    assert (tmp_path / SCRIPT).read_bytes() == (tmp_path / "elsewhere" / SCRIPT).read_bytes()


def test_model_signing_itself_accepts_the_signature(
    bundle: Path, pair: tuple[Path, str], tmp_path: Path
) -> None:
    from model_signing import verifying

    with archive.opened(bundle) as stream:
        manifest = archive.head(stream, "manifest.json")
        (tmp_path / "signature").write_bytes(archive.head(stream, "manifest.sig"))
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "manifest.json").write_bytes(manifest)
    (tmp_path / "key.pem").write_text(pair[1])
    config = verifying.Config().use_elliptic_key_verifier(public_key=tmp_path / "key.pem")
    config.verify(folder, tmp_path / "signature")


def test_our_ecdsa_agrees_with_a_second_implementation() -> None:
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    for number in range(20):
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        point, message = public_key(pem.decode()), f"message {number}".encode()
        proof = key.sign(message, ec.ECDSA(hashes.SHA256()))
        proof = lower(proof)
        assert verifies(point, proof, message)
        assert not verifies(point, proof, message + b"!")
        assert not verifies(G, proof, message)
        for place in range(number % 8, len(proof), 8):
            changed = proof[:place] + bytes([proof[place] ^ 1]) + proof[place + 1 :]
            assert not verifies(point, changed, message)


def test_numbers_that_forge_signatures_elsewhere_are_refused(pair: tuple[Path, str]) -> None:
    def der(r: int, s: int) -> bytes:
        parts = b"".join(bytes([2, len(raw)]) + raw for raw in (n.to_bytes(33) for n in (r, s)))
        return bytes([0x30, len(parts)]) + parts

    key = public_key(pair[1])
    for r in (0, 1, N, N + 1, P):
        for s in (0, 1, N, N + 1):
            assert not verifies(key, der(r, s), b"message")


def test_a_key_of_another_kind_is_refused() -> None:
    for text in ("", "no key", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"):
        with pytest.raises(ArtifactError):
            public_key(text)


def test_the_script_beside_a_bundle_needs_only_python(
    bundle: Path, pair: tuple[Path, str], tmp_path: Path
) -> None:
    (tmp_path / "key.pem").write_text(pair[1])
    script = bundle.with_name(SCRIPT)
    # -I -S: neither this environment's packages nor the checkout can be seen.
    command = [sys.executable, "-I", "-S", str(script), "verify", str(bundle)]
    good = subprocess.run(
        [*command, "--public-key", str(tmp_path / "key.pem")], capture_output=True, text=True
    )
    assert (good.returncode, good.stderr) == (0, "")
    assert "signed by this key" in good.stdout
    broken = tmp_path / "broken.pgb"
    broken.write_bytes(bundle.read_bytes()[:-100])
    command[-1] = str(broken)
    bad = subprocess.run([*command, "--unsigned"], capture_output=True, text=True)
    assert bad.returncode == 3
    assert bad.stderr.startswith("error: the end of the bundle")
    assert subprocess.run(command, capture_output=True).returncode == 2


def test_what_an_update_changes(bundle: Path, tmp_path: Path) -> None:
    files = {**FILES, "new": b"", "empty": b"no more"}
    del files["licences/one/LICENSE"]
    other = small_bundle(tmp_path / "other.pgb", files=files)
    assert changes(bundle, other) == {
        "added": ["new"],
        "removed": ["licences/one/LICENSE"],
        "changed": ["empty"],
    }


def test_the_commands(bundle: Path, pair: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text(pair[1])
    run = CliRunner().invoke
    key = ["--public-key", str(tmp_path / "key.pem")]
    good = run(main, ["bundle", "verify", str(bundle), *key])
    assert (good.exit_code, "every byte as listed" in good.output) == (0, True)
    assert run(main, ["bundle", "verify", str(bundle)]).exit_code == 2
    assert run(main, ["bundle", "verify", str(tmp_path / "none"), *key]).exit_code == 3
    made = run(
        main,
        ["bundle", "keygen", "--private", str(tmp_path / "a"), "--public", str(tmp_path / "b")],
    )
    assert made.exit_code == 0
    assert (tmp_path / "a").stat().st_mode & 0o077 == 0
    again = run(
        main,
        ["bundle", "keygen", "--private", str(tmp_path / "a"), "--public", str(tmp_path / "c")],
    )
    assert again.exit_code == 3
    assert json.loads(run(main, ["bundle", "verify", str(bundle), *key, "--json"]).output)


def test_a_bundle_carries_the_signature_of_an_artifact_that_has_one(
    pair: tuple[Path, str], tmp_path: Path
) -> None:
    folder = shutil.copytree(STARTER, tmp_path / "copy")
    files: dict[str, Path | bytes] = {}
    (artifact,) = _artifacts([folder], files)
    signature = f"artifacts/{artifact.name}/artifact.sig"
    assert signature not in files
    sign_artifact(folder, pair[0])
    (artifact,) = _artifacts([folder], files)
    assert len(files) == len(artifact.files) + 2
    unpack(small_bundle(tmp_path / "carried.pgb", files=files), None, tmp_path / "out")
    there = Artifact.open(tmp_path / "out" / "artifacts" / artifact.name)
    check_signature(there, pair[1])
    check_digests(there)


def test_the_version_of_a_bundle_is_that_of_the_wheel_in_it(tmp_path: Path) -> None:
    wheel = tmp_path / "proguard_edge-99.1-py3-none-any.whl"
    wheel.write_bytes(stand_in("99.1"))
    create(Plan("of a wheel", 1, (), (), (), wheel, tmp_path), tmp_path / "made.pgb", None)
    assert verify(tmp_path / "made.pgb", None).fields["version"] == "99.1"
