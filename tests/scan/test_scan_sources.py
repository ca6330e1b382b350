"""Sources: what of a folder is looked at, and what is said of the rest."""

from __future__ import annotations

import gzip
import os

import pytest
from scanning import write_rows

from proguard_edge.errors import InputError
from proguard_edge.scan.sources import look


@pytest.fixture
def folder(tmp_path):
    """Texts, pictures (their bytes do not matter here), and files of other kinds."""
    root = tmp_path / "folder"
    for name in ("b.txt", "a/x.MD", "a/photo.JPEG", "a/b/anim.gif", "scan.tif", "B.webp"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    for name in ("rows.jsonl", "a/doc.pdf", "doc2.PDF", "LICENSE", ".hidden"):
        (root / name).write_bytes(b"x")
    return root


def test_texts_and_pictures_of_a_folder_are_looked_at_and_others_are_counted(folder):
    found = look(folder)
    assert found.files == ("B.webp", "a/b/anim.gif", "a/photo.JPEG", "a/x.MD", "b.txt", "scan.tif")
    assert (found.kind, found.rows, found.path) == ("folder", 6, str(folder))
    assert found.not_looked_at == {".jsonl": 1, ".pdf": 2, "no ending": 2}


def test_links_lead_to_files_but_not_into_folders(folder, tmp_path):
    (tmp_path / "elsewhere.txt").write_text("x")
    (folder / "a" / "circle").symlink_to(folder)
    (folder / "link.txt").symlink_to(tmp_path / "elsewhere.txt")
    (folder / "broken.txt").symlink_to(tmp_path / "nothing.txt")
    os.mkfifo(folder / "pipe.txt")
    found = look(folder)
    assert "link.txt" in found.files
    assert found.rows == 7
    assert found.not_looked_at["links and special files"] == 3


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may read all")
def test_a_folder_that_cannot_be_read_is_an_error(folder):
    (folder / "a").chmod(0)
    with pytest.raises(InputError, match="cannot be read"):
        look(folder)


def test_names_that_are_no_text_are_files_like_others(folder):
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    assert os.fsdecode(b"caf\xe9.txt") in look(folder).files


def test_a_folder_is_another_one_when_a_file_comes_goes_or_changes(folder):
    before = look(folder)
    assert look(folder) == before
    seen = {before.digest}
    (folder / "new.txt").write_text("x")
    seen.add(look(folder).digest)
    (folder / "new.txt").rename(folder / "newer.txt")
    seen.add(look(folder).digest)
    (folder / "newer.txt").write_text("longer")
    seen.add(look(folder).digest)
    os.utime(folder / "newer.txt", ns=(0, 1))
    seen.add(look(folder).digest)
    assert len(seen) == 5


def test_rows_of_a_file_are_counted_and_not_again_while_it_stays_the_same(tmp_path, monkeypatch):
    source = write_rows(tmp_path / "rows.jsonl", [{"user": "a"}, "", "no json", {"user": "b"}])
    found = look(source)
    assert (found.kind, found.rows) == ("jsonl", 3)
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(source.read_bytes()))
    assert look(packed).rows == 3
    monkeypatch.setattr("proguard_edge.scan.sources.read_rows", lambda _: pytest.fail("read again"))
    assert look(source, found) is found
    os.utime(source, ns=(0, 1))
    again = look(source, found)
    assert again.mtime_ns == 1
    assert (again.rows, again.digest) == (found.rows, found.digest)


def test_a_file_that_changed_is_another_source(tmp_path):
    source = write_rows(tmp_path / "rows.jsonl", [{"user": "a"}])
    found = look(source)
    write_rows(source, [{"user": "b"}])
    os.utime(source, ns=(0, 1))
    assert look(source, found).digest != found.digest


def test_what_is_neither_is_an_error(tmp_path):
    (tmp_path / "rows.csv").write_text("user\nhello\n")
    (tmp_path / "torn.jsonl.gz").write_bytes(gzip.compress(b'{"user": "a"}\n' * 99)[:-9])
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name, said in (
        ("rows.csv", "neither a folder nor"),
        ("gone.jsonl", "cannot be read: No such file"),
        ("torn.jsonl.gz", "cannot be read"),
        ("pipe.jsonl", "not a regular file"),
    ):
        with pytest.raises(InputError, match=said):
            look(tmp_path / name)
