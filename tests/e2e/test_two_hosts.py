"""F16: training over two hosts, of which one loses its network. Both fail within a minute, and the same commands finish the run.

The hosts are two network namespaces of this machine, each with an interface and an address of its own, at a bridge in a third
one. They share processors and disk, as hosts with a shared file system do.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from conftest import REPOSITORY
from sft_faults import set_value, two_ranks

from e2e.conftest import CONFIGURATION, INTERRUPTED, LAUNCH, adapter_hash
from e2e.test_fault_signals import FAULTY, check_finishes
from radrecipes.training import checkpoints
from radrecipes.training.run_folder import read_manifest, read_train_log

pytestmark = pytest.mark.slow

ADDRESSES = {"a": "10.77.0.1", "b": "10.77.0.2"}
PORT = 29501
RUN = Path("runs/interrupted")
STEPS = 18
# A minute from the cut to the end of the last launcher.
AT_MOST = 60
WORDS = (
    "another machine was silent for 40 s (it, or its network, is down); run the same command again on all machines to "
    "continue"
)
ACCELERATE = (*LAUNCH, "launch.yaml")
OWN = (REPOSITORY / "scripts" / "launch.py", "--config_file", "launch.yaml")


class Network:
    """Two hosts at a switch, in network namespaces that are named after this process.

    A host is cut off by taking its port off the switch: frames vanish, and neither side's interface goes down, so that no
    connection is told. A link that goes down would take addresses and routes with it, which is kinder than a broken switch.
    """

    def __init__(self, name: str):
        self.switch, *hosts = (f"two-hosts-{os.getpid()}-{name}-{part}" for part in ("switch", *ADDRESSES))
        self.hosts = dict(zip(ADDRESSES, hosts, strict=True))

    def up(self):
        for name in (self.switch, *self.hosts.values()):
            ip("netns", "add", name)
        ip("-n", self.switch, "link", "add", "hub", "type", "bridge", "forward_delay", "0")
        ip("-n", self.switch, "link", "set", "hub", "up")
        for name, host in self.hosts.items():
            port = ("veth", "peer", "name", "eth0", "netns", host)
            ip("-n", self.switch, "link", "add", f"port-{name}", "type", *port)
            ip("-n", self.switch, "link", "set", f"port-{name}", "up")
            ip("-n", host, "address", "add", f"{ADDRESSES[name]}/24", "dev", "eth0")
            ip("-n", host, "link", "set", "lo", "up")
            ip("-n", host, "link", "set", "eth0", "up")
            ip("netns", "exec", host, "true")  # it mounts, which some containers refuse
            self.mend(name)

    def down(self):
        for name in (*self.hosts.values(), self.switch):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)

    def cut(self, name):
        ip("-n", self.switch, "link", "set", f"port-{name}", "nomaster")

    def mend(self, name):
        ip("-n", self.switch, "link", "set", f"port-{name}", "master", "hub")

    def on(self, name, *words):
        """The words of a command that runs on a host."""
        return ["ip", "netns", "exec", self.hosts[name], *map(str, words)]


def ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise PermissionError(f"`ip {' '.join(words)}`: {done.stderr.strip()}")


class Job:
    """One job in a workspace and a network of its own: a launcher on each host, as a user starts them."""

    def __init__(self, workspace: Path, words, lost: str):
        self.workspace, self.words, self.lost = workspace, words, lost
        self.network = Network(lost)
        self.launchers = {}
        workspace.joinpath("launch.yaml").write_text(CONFIGURATION.format(kind="MULTI_GPU", processes=2), "utf-8")

    def start(self, fault: str = ""):
        self.workspace.joinpath("fault.py").write_text(FAULTY.replace("FAULT", fault), "utf-8")
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY / "tests"),
            "GLOO_SOCKET_IFNAME": "eth0",  # else gloo takes the address of the host's name, which is 127.0.0.1
            "ACCELERATE_USE_CPU": "true",  # accelerate tells no worker of several, and this machine may have a GPU
        }
        meet = ("--num_machines", 2, "--main_process_ip", ADDRESSES["a"], "--main_process_port", PORT)
        for rank, host in enumerate(ADDRESSES):
            command = (sys.executable, *self.words, *meet, "--machine_rank", rank, "fault.py", *INTERRUPTED[1:])
            with self._output(host).open("wb") as output:
                self.launchers[host] = subprocess.Popen(
                    self.network.on(host, *command),
                    cwd=self.workspace,
                    env=environment,
                    stdout=output,
                    stderr=output,
                    process_group=0,
                )

    def said(self, host):
        return self._output(host).read_text("utf-8").replace("\r", "\n")

    @property
    def steps(self):
        return [line["step"] for line in read_train_log(self.workspace / RUN)]

    @property
    def processes(self):
        """Whatever runs on its hosts."""
        hosts = self.network.hosts.values()
        listed = [subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True) for host in hosts]
        return [int(process) for host in listed for process in host.stdout.split()]

    def end(self, seconds):
        """Exit codes of the launchers."""
        until = time.monotonic() + seconds
        for host, launcher in self.launchers.items():
            try:
                launcher.wait(max(until - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                pytest.fail(f"host {host} still runs after {seconds} s:\n{self.said(host)}")
        return {host: launcher.returncode for host, launcher in self.launchers.items()}

    def kill(self):
        """Whatever is left, and the network."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for launcher in self.launchers.values():
            launcher.wait()
        self.network.down()

    def _output(self, host):
        return self.workspace / f"said.{host}"


@pytest.fixture
def jobs(shared_workspace, tmp_path):
    """A job by each launcher; the first will lose the host of the first process, the second the other one."""
    if shutil.which("ip") is None:
        pytest.skip("two hosts need iproute2 (the program `ip`)")
    if os.geteuid() != 0:
        pytest.skip("two hosts are network namespaces, which only root may make")
    made = []
    try:
        for words, lost in ((ACCELERATE, "a"), (OWN, "b")):
            workspace = shutil.copytree(shared_workspace, tmp_path / f"without-{lost}", symlinks=True)
            made.append(Job(workspace, words, lost))
            try:
                made[-1].network.up()
            except PermissionError as refused:
                pytest.skip(f"this system makes no network namespaces: {refused}")
        yield made
    finally:
        for job in made:
            job.kill()


def test_a_host_without_network_ends_the_run_on_both_and_the_same_commands_finish_it(jobs, uninterrupted):
    found = {}

    # Side by side, because most of it is waiting
    for job in jobs:
        program = f"import socket; socket.create_connection(('{ADDRESSES['a']}', {PORT}), 5)"
        reached = subprocess.run(job.network.on("b", sys.executable, "-c", program), capture_output=True, text=True)
        # Nothing listens yet: a host that is reached refuses at once.
        assert "ConnectionRefusedError" in reached.stderr, reached.stderr
        job.start("in_step(None, partial(time.sleep, 0.3))")

    # Ten seconds without network end nothing
    cut_after(2, jobs)
    time.sleep(10)
    for job in jobs:
        assert len(job.steps) < 6, "the network was not cut"
        job.network.mend(job.lost)

    # More do
    cut_after(7, jobs)
    until = time.monotonic() + AT_MOST
    for job in jobs:
        assert job.end(until - time.monotonic()) == {"a": 1, "b": 1} and not job.processes
        for host in ADDRESSES:
            lines = [line for line in job.said(host).splitlines() if line.startswith("error: ")]
            assert lines == [f"error: {WORDS}"], job.said(host)
        run = job.workspace / RUN
        found[job] = checkpoints.find_last_valid(run)
        assert found[job].newest.step in (5, 10) and not found[job].rejected
        assert not (run / "COMPLETE").exists() and not (run / "adapter").exists()

    # The same commands finish the run to the adapter of the one that nothing happened to
    for job in jobs:
        job.network.mend(job.lost)
        job.start()
    for job in jobs:
        assert job.end(120) == {"a": 0, "b": 0}, job.said("a") + job.said("b")
        assert adapter_hash(job.workspace / RUN) == uninterrupted[2]
        assert job.steps == list(range(1, STEPS + 1))
        resumes = read_manifest(job.workspace / RUN)["training"]["resumes"]
        assert resumes == [{"step": found[job].newest.step, "changed": {}}]


def cut_after(step, jobs):
    """Cut the network of each job as soon as it has logged a step."""
    waiting, until = list(jobs), time.monotonic() + 120
    while waiting:
        time.sleep(0.05)
        for job in list(waiting):
            if len(job.steps) >= step:
                job.network.cut(job.lost)
                waiting.remove(job)
            for host, launcher in job.launchers.items():
                assert launcher.poll() is None and time.monotonic() < until, job.said(host)


def test_machines_without_a_common_run_folder_are_reported(workspace, uninterrupted):
    stopped = two_ranks(workspace, *INTERRUPTED, "--stop-after", "5")
    assert [script.end().code for script in stopped] == [75, 75]
    elsewhere = shutil.copytree(workspace, workspace.with_name("elsewhere"), symlinks=True)
    shutil.rmtree(elsewhere / RUN)
    soon = partial(set_value, "radrecipes.launch.peer_watchdog", "_CACHED_SECONDS", 1)
    refused = two_ranks(workspace, *INTERRUPTED, faults={0: soon, 1: soon}, other_machine=elsewhere)
    for script in refused:
        assert script.end().code == 2
        assert "runs/interrupted: process 1 on" in script.stderr, script.stderr
        assert "set --output_dir to a folder that all machines share" in script.stderr
    assert not (elsewhere / RUN).exists()
    check_finishes(workspace, uninterrupted, processes=2, resumes=[5])
