"""A real Slurm on this machine for tests: loopback only, two nodes, in a folder of its own. Needs slurm-wlm and munge, and root."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ["munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol"]
NODES = ["n1", "n2"]
CONFIGURATION = """\
ClusterName=stemm
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthInfo=socket={folder}/munge/socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
ReturnToService=2
SlurmdTimeout=10
"""


def missing() -> str | None:
    """Why there can be no cluster here."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if absent:
        return f"{', '.join(absent)} not installed (slurm-wlm and munge)"
    return None if os.geteuid() == 0 else "Slurm's daemons are started by root"


class Cluster:
    def __init__(self, port: int = 16817):
        # A short path that everybody may pass through: munge asks for both.
        self.folder = folder = Path(tempfile.mkdtemp(prefix="stemm-slurm-"))
        self.port = port
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin"}

    def __enter__(self) -> "Cluster":
        for name in ["state", "munge", "log", *(f"spool.{node}" for node in NODES)]:
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o711)
        (self.folder / "munge").chmod(0o711)
        host = subprocess.run(["hostname", "-s"], capture_output=True, text=True, check=True).stdout.strip()
        lines = CONFIGURATION.format(host=host, folder=self.folder, port=self.port)
        for index, node in enumerate(NODES):
            lines += f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={self.port + 1 + index} CPUs=2 State=UNKNOWN\n"
        (self.folder / "slurm.conf").write_text(lines + "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n")
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        munge = self.folder / "munge"
        self.run("munged", f"--key-file={key}", f"--socket={munge}/socket", f"--pid-file={munge}/pid", f"--log-file={munge}/log",
                 f"--seed-file={munge}/seed")
        self.run("slurmctld", "-f", self.folder / "slurm.conf")
        for node in NODES:
            self.start(node)
        return self

    def __exit__(self, *_) -> None:
        self.run("scancel", "--user=root", check=False)
        for node in NODES:
            self.crash(node)
        for file in [self.folder / "slurmctld.pid", self.folder / "munge" / "pid"]:
            if file.exists():
                kill(int(file.read_text()))
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *arguments, check: bool = True) -> str:
        arguments = [str(argument) for argument in arguments]
        # Daemons keep what they inherit open: their words go to a file, not to a pipe that would never end.
        with open(self.folder / "said", "w+") as said:
            result = subprocess.run(arguments, env=self.environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
            said.seek(0)
            words = said.read()
        assert not check or result.returncode == 0, f"{arguments}: {words}"
        return words

    def start(self, node: str) -> None:
        self.run("slurmd", "-f", self.folder / "slurm.conf", "-N", node)

    def crash(self, node: str) -> None:
        """As if its plug were pulled: the daemon, those that watch over its tasks, and the tasks."""
        file = self.folder / f"{node}.pid"
        if not file.exists():
            return
        tasks = self.tasks(node)
        watchers = {parent(task) for task in tasks}
        for process in [int(file.read_text()), *(own for own in watchers if b"slurmstepd" in command_line(own)), *tasks]:
            kill(process)
        file.unlink(missing_ok=True)

    def tasks(self, node: str) -> list[int]:
        """The processes that run on a node."""
        name, conf = f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={self.folder}/".encode()
        return [process for process in processes()
                if name in variables(process) and any(entry.startswith(conf) for entry in variables(process))]

    def states(self) -> dict[str, str]:
        """State of each task of the arrays that are not over."""
        lines = self.run("squeue", "--array", "--noheader", "--format=%i %T", check=False).splitlines()
        return dict(line.split(maxsplit=1) for line in lines if re.match(r"\d", line))

    def wait(self, seconds: float, until) -> None:
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end, f"{self.states()}\n{(self.folder / 'log' / 'slurmctld.log').read_text()[-3000:]}"
            time.sleep(0.2)


def processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def command_line(process: int) -> bytes:
    return read(process, "cmdline")


def variables(process: int) -> list[bytes]:
    return read(process, "environ").split(b"\0")


def parent(process: int) -> int:
    return int((read(process, "stat").rsplit(b")", 1) + [b"S 0"])[1].split()[1])


def read(process: int, what: str) -> bytes:
    try:
        return Path(f"/proc/{process}/{what}").read_bytes()
    except OSError:  # it has ended
        return b""


def kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        pass
