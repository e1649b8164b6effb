"""Opens JupyterLab: python scripts/lab.py FOLDER [OPTION ...] with options of `jupyter lab`."""

import getpass
import os
import socket
import sys
from pathlib import Path

from environment import ROOT


def main() -> None:
    folder, *options = sys.argv[1:]
    notebooks = Path(folder).resolve()
    notebooks.mkdir(parents=True, exist_ok=True)
    if not os.access(notebooks, os.W_OK):
        print(f"[lab] Nothing can be saved in {notebooks}. For a copy of your own: cp -r {ROOT / 'notebooks'} ~/lmc, then "
              "`make lab NOTEBOOKS=~/lmc`.", flush=True)
    command = ["jupyter", "lab", f"--notebook-dir={notebooks}", "--MultiKernelManager.default_kernel_name=stemm"]
    if os.geteuid() == 0:
        command.append("--allow-root")  # as on rented machines and in containers
    if "SSH_CONNECTION" in os.environ:
        print("[lab] From your own computer: ssh -N -L 8888:localhost:PORT "
              f"{getpass.getuser()}@{socket.getfqdn()}, with the port of the link below; then open the link with port 8888 there.",
              flush=True)
    os.execvp(command[0], [*command, *options])


if __name__ == "__main__":
    main()
