"""Data are taken from the first source that has them, and only if their SHA-256 is the published one."""

import gzip
import hashlib
import sys
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
