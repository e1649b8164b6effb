"""Builds the Docker image with what there is: python3 scripts/image.py [OPTION ...] with options of `docker build`.

STEMM_ENGINE names docker, podman or buildah; else the first of them that answers is taken.
"""

import os
import shutil
import subprocess
import sys
import time

from environment import ROOT

NAME = "stemm"
# Podman and buildah leave HEALTHCHECK out of images in their own format.
BUILD = {
    "docker": ["docker", "build"],
    "podman": ["podman", "build", "--format", "docker"],
    "buildah": ["buildah", "build", "--layers", "--format", "docker"],
}


def answers(engine: str) -> bool:
    """Docker's command may be there without its service."""
    return shutil.which(engine) is not None and subprocess.run([engine, "info"], capture_output=True).returncode == 0


def engine(*kinds: str) -> str | None:
    """The one that STEMM_ENGINE names, or the first that answers."""
    if said := os.environ.get("STEMM_ENGINE"):
        return said if said in kinds else None
    return next(filter(answers, kinds), None)


def build(options: list[str]) -> None:
    chosen = engine(*BUILD)
    if chosen is None:
        sys.exit("Nothing here builds images: install docker, podman or buildah, or start Docker's service.")
    start = time.monotonic()
    print(f"[image] building with {chosen}, half an hour on 2 cores ...", flush=True)
    result = subprocess.run([*BUILD[chosen], "--tag", NAME, *options, str(ROOT)])
    if result.returncode != 0:
        sys.exit(f"{chosen} failed (see above); layers that are done stay done.")
    print(f"[image] {NAME}: {(time.monotonic() - start) / 60:.0f} min", flush=True)


if __name__ == "__main__":
    build(sys.argv[1:])
