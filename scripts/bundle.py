"""The finished set-up as one archive, for other machines of the same kind, which unpack it instead of compiling.

    python3 scripts/bundle.py pack FILE.tar.gz      also writes FILE.tar.gz.sha256
    python3 scripts/bundle.py unpack FILE.tar.gz

What was compiled knows the paths where it lies, so the checkout, the set-up's folder, cargo's home, Rust and Python have to be
in the same places on both machines.
"""

import hashlib
import io
import json
import os
import platform
import sys
import tarfile
import time
from pathlib import Path

from environment import BUILD, CARGO_HOME, HOME, MADE, ROOT, STAMPS, TARGET, printed_by_rustc

MANIFEST = "manifest.json"
# What kernels read of cargo's home: the list of crates, and their sources.
REGISTRY = CARGO_HOME / "registry"
SOURCES = ROOT / "stemm"


def kind() -> dict[str, str]:
    """What has to be the same on both machines, by the name under which a message says so."""
    return {
        "processor": platform.machine(),
        "glibc": platform.libc_ver()[1],
        "Rust": printed_by_rustc("--version").strip(),
        "place of Rust": printed_by_rustc("--print", "sysroot").strip(),
        "Python": platform.python_version(),
        "place of Python": str(Path(sys.executable).resolve()),
        "checkout": str(ROOT),
        "STEMM_HOME": str(HOME),
        "CARGO_HOME": str(CARGO_HOME),
    }


def pack(file: Path) -> None:
    if not (STAMPS / "kernel").exists():
        sys.exit("The set-up is not finished: run `make setup`.")
    start = time.monotonic()
    # Cargo compares the times of sources, which a checkout elsewhere does not keep.
    times = {str(path.relative_to(ROOT)): path.stat().st_mtime_ns for path in sorted(SOURCES.rglob("*")) if path.is_file()}
    manifest = json.dumps({"kind": kind(), "times": times}).encode()
    with tarfile.open(file, "w:gz", compresslevel=1) as archive:
        entry = tarfile.TarInfo(MANIFEST)
        entry.size = len(manifest)
        archive.addfile(entry, io.BytesIO(manifest))
        for made in MADE:
            if made.exists() and made not in [BUILD, TARGET]:
                archive.add(made, f"home/{made.relative_to(HOME)}", filter=without_kernels)
        archive.add(REGISTRY, "registry", filter=lambda entry: None if entry.name.startswith("registry/cache") else entry)
    Path(f"{file}.sha256").write_text(f"{digest(file)}  {file.name}\n")
    print(f"[bundle] {file}: {file.stat().st_size / 1e9:.2f} GB, {time.monotonic() - start:.0f} s")


def without_kernels(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Directories of kernels that run or have ended stay here."""
    return None if entry.name.startswith("home/kernels/kernel-") else entry


def unpack(file: Path) -> None:
    noted = Path(f"{file}.sha256")
    if not noted.exists() or noted.read_text().split()[0] != digest(file):
        sys.exit(f"{file} is not what {noted.name} says: copy both files again.")
    start = time.monotonic()
    with tarfile.open(file, "r:gz") as archive:
        archive.extraction_filter = lambda entry, folder: entry  # its SHA-256 was checked: links lead out of the folder
        manifest = json.load(archive.extractfile(archive.next()))
        check(manifest["kind"], kind())
        if HOME.exists() and any(HOME.iterdir()):
            sys.exit(f"{HOME} is not empty: run `make clean`, or name another folder in STEMM_HOME on both machines.")
        for entry in archive:
            if entry.name == MANIFEST:
                continue
            top, _, below = entry.name.partition("/")
            entry.name = below or "."
            if entry.islnk():
                entry.linkname = entry.linkname.partition("/")[2]
            folder = HOME if top == "home" else REGISTRY
            folder.mkdir(parents=True, exist_ok=True)
            archive.extract(entry, folder)
    for name, at in manifest["times"].items():
        if (ROOT / name).exists():
            os.utime(ROOT / name, ns=(at, at))
    print(f"[bundle] unpacked in {time.monotonic() - start:.0f} s; `make setup` does what is left, such as the data")


def check(theirs: dict[str, str], ours: dict[str, str]) -> None:
    """Refuses what would not run here."""
    if different := [f"{name} is {ours[name]} here and {theirs[name]} there" for name in theirs if theirs[name] != ours.get(name)]:
        sys.exit("This bundle is for another machine: " + "; ".join(different) + ". Make them alike, or run `make setup` here.")


def digest(file: Path) -> str:
    whole = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            whole.update(block)
    return whole.hexdigest()


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ["pack", "unpack"]:
        sys.exit(__doc__)
    {"pack": pack, "unpack": unpack}[sys.argv[1]](Path(sys.argv[2]))
