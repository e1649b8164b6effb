"""Runs a command in the set-up's environment: python3 scripts/run.py COMMAND ARGUMENT ..."""

import os
import sys

from environment import cargo_environment, environment

if len(sys.argv) < 2:
    sys.exit(__doc__)
variables = cargo_environment() if sys.argv[1] == "cargo" else environment()
os.environ["PATH"] = variables["PATH"]
try:
    os.execvpe(sys.argv[1], sys.argv[1:], variables)
except FileNotFoundError:
    sys.exit(f"{sys.argv[1]} is not installed: run `make setup`.")
