"""A Slurm of one machine on loopback, started as root below a folder: munge, slurmctld, slurmd, two partitions.

Tasks of ``low`` are requeued for those of ``high``. Nothing is installed or left behind; ``with Cluster(folder) as cluster``.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")


def lacking() -> str:
    """Why no cluster can be started here; "" if one can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"{', '.join(absent)} not installed (slurm-wlm, munge)"
    return "" if os.geteuid() == 0 else "slurmd starts jobs as root only"


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def until(reached: Callable[[], bool], what: str, seconds: float = 600.0) -> None:
    """Wait; RuntimeError if it does not come."""
    end = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > end:
            raise RuntimeError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.2)


class Cluster:
    """``environment``: with which Slurm's commands find it."""

    def __init__(self, folder: Path, cpus: int = 2) -> None:
        self.folder, self.cpus = folder, cpus
        self.node = socket.gethostname().partition(".")[0]
        self.environment = os.environ | {"PATH": _path(), "SLURM_CONF": str(folder / "slurm.conf")}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Cluster:
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        (self.folder / "plugstack.conf").touch()
        (self.folder / "cgroup.conf").touch()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        ports = [_free() for _ in range(2)]
        socket_ = self.folder / "munge.socket"
        lines = f"""
            ClusterName=sweeps
            SlurmctldHost={self.node}(127.0.0.1)
            SlurmctldPort={ports[0]}
            SlurmdPort={ports[1]}
            AuthType=auth/munge
            AuthInfo=socket={socket_},cred_expire=5
            SlurmUser=root
            SlurmdUser=root
            StateSaveLocation={self.folder}/state
            SlurmdSpoolDir={self.folder}/spool
            SlurmctldPidFile={self.folder}/slurmctld.pid
            SlurmdPidFile={self.folder}/slurmd.pid
            PlugStackConfig={self.folder}/plugstack.conf
            ProctrackType=proctrack/pgid
            TaskPlugin=task/none
            JobAcctGatherType=jobacct_gather/none
            SelectType=select/cons_tres
            SelectTypeParameters=CR_CPU
            PreemptType=preempt/partition_prio
            PreemptMode=REQUEUE
            SchedulerParameters=bf_interval=1,sched_min_interval=500000
            KillWait=30
            SlurmdTimeout=10
            ReturnToService=2
            MailProg=/bin/true
            SlurmdParameters=config_overrides
            NodeName={self.node} NodeAddr=127.0.0.1 CPUs={self.cpus} State=UNKNOWN
            PartitionName=low Nodes={self.node} Default=YES PriorityTier=1 MaxTime=INFINITE State=UP
            PartitionName=high Nodes={self.node} PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
        """
        (self.folder / "slurm.conf").write_text("\n".join(line.strip() for line in lines.splitlines()))
        names = [f"--{name}={self.folder}/munge.{end}" for name, end in (("pid-file", "pid"), ("log-file", "log"))]
        names += [f"--seed-file={self.folder}/munge.seed", f"--key-file={key}", f"--socket={socket_}"]
        try:
            self._start("munged", "--foreground", "--force", *names)
            until(socket_.exists, "munge", 30)
            self._start("slurmctld", "-D", "-f", str(self.folder / "slurm.conf"))
            self.start_node()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start_node(self) -> None:
        """Start slurmd and wait until the node takes jobs."""
        self._start("slurmd", "-D", "-N", self.node, "-f", str(self.folder / "slurm.conf"))
        until(lambda: any(word in self.ask("sinfo", "-h", "-o", "%T") for word in ("idle", "mixed", "alloc")), "the node", 60)

    def kill_node(self) -> None:
        """What a machine's end is to its cluster: slurmd and everything that it started is gone at once."""
        for process in [*_below(self._running["slurmd"].pid), *self._steps()]:
            for child in [*_below(process), process]:
                _kill(child)
        self._running.pop("slurmd").kill()

    def ask(self, *command: str) -> str:
        """What one of Slurm's commands prints; "" if it fails."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True).stdout

    def __exit__(self, *_: object) -> None:
        if "slurmctld" in self._running:
            self.ask("scancel", "--full", "--signal=KILL", "--user=root")
        for process in self._steps():
            for child in [*_below(process), process]:
                _kill(child)
        for process in reversed(self._running.values()):
            process.kill()
            process.wait()

    def _start(self, program: str, *words: str) -> None:
        path = shutil.which(program, path=_path())
        assert path is not None
        with (self.folder / f"{program}.out").open("a") as log:
            self._running[program] = subprocess.Popen(
                [path, *words], env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def _steps(self) -> list[int]:
        """slurmstepd processes of this cluster."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if (folder / "comm").read_text().strip() == "slurmstepd":
                    if str(self.folder) in (folder / "environ").read_text() or str(self.folder) in os.readlink(folder / "cwd"):
                        found.append(int(folder.name))
            except OSError:
                continue
        return found


def _below(process: int) -> list[int]:
    """Processes that a process started, and those that these did."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
        except OSError:
            continue
    found, pending = [], [process]
    while pending:
        for child in parents.get(pending.pop(), []):
            found.append(child)
            pending.append(child)
    return found


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
