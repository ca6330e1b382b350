"""The audit log: each line whole or not at all, and no change to it goes unseen."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proguard_edge.cli import main
from proguard_edge.errors import AuditError
from proguard_edge.serve.audit import AuditLog
from proguard_edge.serve.audit_chain import head
from proguard_edge.serve.audit_verify import verify


def written(folder: Path, lines: int = 5, **options: int) -> Path:
    """A log of so many lines."""
    log = AuditLog(folder, **options)
    for number in range(lines):
        log.append({"event": "verdict", "number": number, "text": "Grüße"})
    log.close()
    return folder


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("audit-*.jsonl"))


def test_an_untouched_log_holds_together_over_restarts_and_rotation(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    for _ in range(3):
        written(folder, 20, max_file_bytes=2000)
    assert list(verify(folder)) == []
    assert len(files(folder)) > 5
    assert head(folder)["seq"] == 60


def test_every_edit_of_a_value_is_found(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (path,) = files(folder)
    raw = path.read_text().splitlines(keepends=True)
    raw[2] = raw[2].replace('"number": 2', '"number": 7')
    path.write_text("".join(raw))
    assert list(verify(folder)) == [f"{path.name}:3: line 3 was altered"]


@pytest.mark.parametrize("gone", [0, 2, 4])
def test_a_missing_line_is_found_wherever_it_stood(tmp_path: Path, gone: int) -> None:
    folder = written(tmp_path)
    (path,) = files(folder)
    raw = path.read_text().splitlines(keepends=True)
    path.write_text("".join(raw[:gone] + raw[gone + 1 :]))
    (fault,) = verify(folder)
    assert f"line {gone + 1} is missing" in fault


def test_a_missing_file_is_found(tmp_path: Path) -> None:
    folder = written(tmp_path, 30, max_file_bytes=2000)
    files(folder)[1].unlink()
    assert any("are missing" in fault for fault in verify(folder))


def test_lines_that_changed_places_are_found(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (path,) = files(folder)
    raw = path.read_text().splitlines(keepends=True)
    path.write_text("".join([raw[0], raw[2], raw[1], *raw[3:]]))
    assert list(verify(folder))


def test_a_log_written_anew_without_the_key_is_found(tmp_path: Path) -> None:
    folder, other = written(tmp_path / "ours"), written(tmp_path / "theirs")
    files(folder)[0].write_bytes(files(other)[0].read_bytes())
    assert len(list(verify(folder))) >= 5


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_changed_byte_is_found(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "audit"
    if not folder.exists():
        written(folder)
    (path,) = files(folder)
    good = path.read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != good[place]))
    path.write_bytes(good[:place] + bytes([byte]) + good[place + 1 :])
    try:
        changed = path.read_bytes().splitlines()
        same = len(changed) == 5 and all(
            _json(a) == _json(b) for a, b in zip(changed, good.splitlines(), strict=True)
        )
        # Only white space between values may differ: the line still says the same.
        assert same or list(verify(folder))
    finally:
        path.write_bytes(good)


def _json(raw: bytes) -> object:
    try:
        return json.loads(raw)
    except ValueError:
        return raw


def test_a_line_that_a_crash_cut_off_is_cut_out_and_the_chain_goes_on(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (path,) = files(folder)
    with path.open("ab") as file:
        file.write(b'{"seq": 6, "time": 1')
    written(folder, 2)
    assert list(verify(folder)) == []
    assert head(folder)["seq"] == 7


def test_opening_a_log_whose_last_line_was_altered_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (path,) = files(folder)
    path.write_text(path.read_text().replace('"number": 4', '"number": 5'))
    with pytest.raises(AuditError, match="altered"):
        AuditLog(folder)


def test_two_servers_cannot_write_one_log(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    with pytest.raises(AuditError, match="another server"):
        AuditLog(tmp_path)
    log.close()
    AuditLog(tmp_path).close()


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: writes fail as on a full disk."""
    import signal

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_an_error_leaves_no_half_line_and_ends_with_room(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.append({"event": "one"})
    (path,) = files(tmp_path)
    with full_disk(path.stat().st_size + 40):
        for _ in range(3):
            with pytest.raises(AuditError, match="cannot be written"):
                log.append({"event": "two"})
    assert path.read_bytes().count(b"\n") == 1
    assert path.read_bytes().endswith(b"\n")
    assert log.append({"event": "three"}) == 2
    log.close()
    assert list(verify(tmp_path)) == []


def test_files_and_key_are_for_their_owner_alone(tmp_path: Path) -> None:
    folder = written(tmp_path / "audit")
    assert folder.stat().st_mode & 0o077 == 0
    for path in (folder / "audit.key", *files(folder)):
        assert path.stat().st_mode & 0o077 == 0, path


def test_content_is_named_by_a_keyed_digest(tmp_path: Path) -> None:
    ours, theirs = AuditLog(tmp_path / "a"), AuditLog(tmp_path / "b")
    assert ours.digest("yes") == ours.digest(b"yes") != theirs.digest("yes")
    assert ours.digest("\ud800") != ours.digest("?")
    ours.close()
    theirs.close()


def test_the_command_says_what_is_wrong_and_how(tmp_path: Path) -> None:
    folder = written(tmp_path / "audit")
    good = CliRunner().invoke(main, ["audit", "verify", str(folder)])
    assert (good.exit_code, good.output.count("\n")) == (0, 1)
    files(folder)[0].write_text("nonsense\n")
    bad = CliRunner().invoke(main, ["audit", "verify", str(folder), "--json"])
    assert bad.exit_code == 3
    assert "not a line of an audit log" in json.loads(bad.output)["faults"][0]
    none = CliRunner().invoke(main, ["audit", "verify", str(tmp_path / "nothing")])
    assert none.exit_code == 3
    assert "no audit-" in none.output
    (folder / "audit.key").unlink()
    assert CliRunner().invoke(main, ["audit", "verify", str(folder)]).exit_code == 3


def test_a_cut_end_stays_seen_after_a_restart(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (path,) = files(folder)
    raw = path.read_text().splitlines(keepends=True)
    path.write_text("".join(raw[:3]))
    with pytest.raises(AuditError, match=r"lines 4 to 5 are missing at the end"):
        AuditLog(folder)
    path.unlink()
    with pytest.raises(AuditError, match="missing at the end"):
        AuditLog(folder)


def test_a_head_that_was_edited_or_removed_is_found(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (path,) = files(folder)
    raw = path.read_text().splitlines(keepends=True)
    path.write_text("".join(raw[:3]))
    noted = json.loads((folder / "head.json").read_text())
    line = json.loads(raw[2])
    noted.update(seq=3, mac=line["mac"])
    (folder / "head.json").write_text(json.dumps(noted))
    assert any("head.json: was altered" in fault for fault in verify(folder))
    with pytest.raises(AuditError, match="was altered"):
        AuditLog(folder)
    (folder / "head.json").unlink()
    with pytest.raises(AuditError, match="cannot be read"):
        AuditLog(folder)


def test_a_head_that_was_put_away_finds_an_older_state(tmp_path: Path) -> None:
    folder = written(tmp_path / "audit")
    (path,) = files(folder)
    older = {each: each.read_bytes() for each in (path, folder / "head.json")}
    written(folder, 3)
    (tmp_path / "away.json").write_bytes((folder / "head.json").read_bytes())
    run = CliRunner().invoke
    command = ["audit", "verify", str(folder), "--head", str(tmp_path / "away.json")]
    assert run(main, command).exit_code == 0
    for each, content in older.items():
        each.write_bytes(content)
    assert list(verify(folder)) == []
    assert run(main, command).exit_code == 3


def test_what_a_client_sends_never_gets_the_mac_of_a_line(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (path,) = files(folder)
    line = json.loads(path.read_text().splitlines()[2])
    mac = line.pop("mac")
    content = json.dumps(line, sort_keys=True, separators=(",", ":"))
    log = AuditLog(folder)
    assert log.digest(content) != mac
    log.close()
    with pytest.raises(AuditError, match="closed"):
        log.append({})


def test_a_second_value_under_one_name_is_found(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (path,) = files(folder)
    raw = path.read_text()
    path.write_text(raw.replace('{"seq": 2', '{"number": 9, "seq": 2'))
    assert any("line 2 was altered" in fault for fault in verify(folder))
