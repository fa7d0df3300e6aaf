"""The systemd unit in a container whose process 1 is systemd, installed by install.sh: started, reloaded, killed, confined."""

import json
import re
import time
from collections.abc import Iterator

import pytest

from tests.real import images
from tests.real.conftest import need
from tests.real.docker import DockerEngine
from tests.waiting import eventually

pytestmark = pytest.mark.real

NAME = "llm-probe-exporter"
CONFIG = f"/etc/{NAME}/config.yml"
DROP_INS = f"/etc/systemd/system/{NAME}.service.d"
PYTHON = f"/opt/{NAME}/bin/python"
CAPABILITIES = "SYS_ADMIN NET_ADMIN SYS_PTRACE SYS_BOOT SYS_NICE DAC_READ_SEARCH LINUX_IMMUTABLE IPC_LOCK AUDIT_CONTROL"
# What systemd needs to be process 1 of a container; no network, so that the loopback is the container's own.
BOOT = (
    "--network=none",
    "--cgroupns=private",
    *(f"--cap-add={name}" for name in CAPABILITIES.split()),
    *(f"--security-opt={name}=unconfined" for name in ("seccomp", "apparmor", "systempaths")),
    *("--tmpfs=/run:exec", "--tmpfs=/run/lock", "--tmpfs=/tmp:exec", "--tmpfs=/sys/fs/cgroup"),
    # The classes of devices that a unit may be given must be the container's first: here the one with fuse and tun.
    "--device-cgroup-rule=c 10:* rwm",
    "--env=container=docker",
    "--env=SYSTEMD_PROC_CMDLINE=systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1",
)
# Exposure by systemd-analyze, in tenths: the worst that is accepted.
EXPOSURE = 17


class BootedContainer:
    """A booted container with the service installed."""

    def __init__(self, engine: DockerEngine) -> None:
        self.engine = engine

    def run(self, command: str, *, check: bool = True) -> str:
        """What a shell command on the machine prints, both streams."""
        done = self.engine.run("exec", "machine", "sh", "-c", f"exec 2>&1\n{command}", check=False)
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def write(self, path: str, text: str) -> None:
        """Write a file on the machine."""
        self.engine.run("exec", "-i", "machine", "sh", "-c", f"cat > {path}", stdin=text.encode())

    def show(self, key: str) -> str:
        """A property of the service."""
        return self.run(f"systemctl show --value --property={key} {NAME}")

    def as_service(self, command: str) -> str:
        """Run a command in the service's own view of the system and as its user, and give what it prints."""
        pid = self.show("MainPID")
        user = self.run(f"awk '/^Uid/ {{print $2}}' /proc/{pid}/status")
        return self.run(
            f"nsenter --target {pid} --mount --setuid {user} --setgid {user} --root=/proc/{pid}/root sh -c '{command}'",
            check=False,
        )

    def fetch(self, path: str) -> str:
        """What the daemon answers."""
        code = f"import urllib.request as r; print(r.urlopen('http://127.0.0.1:9937{path}').read().decode())"
        return self.run(f'{PYTHON} -c "{code}"')

    def targets(self) -> list[str]:
        """The names of the configured targets, by the daemon's own service discovery."""
        groups = json.loads(self.fetch("/api/v1/targets"))
        return sorted({group["labels"]["__meta_llm_probe_target"] for group in groups})

    def journal(self) -> str:
        """What the service and systemd about it have logged since the boot."""
        return self.run(f"journalctl --no-pager --output=cat --unit={NAME}")


@pytest.fixture(scope="module")
def image(shared_engine: DockerEngine) -> str:
    """The image with systemd and the installed service."""
    need(not images.missing_parts(), f"for an image: {images.missing_parts()}")
    return images.systemd(shared_engine)


@pytest.fixture
def machine(docker_engine: DockerEngine, image: str) -> Iterator[BootedContainer]:
    """A freshly booted machine; the service is not started."""
    docker_engine.start_container("machine", image, "/lib/systemd/systemd", options=BOOT)
    booted = BootedContainer(docker_engine)
    eventually(lambda: booted.run("systemctl is-system-running", check=False) == "running", "systemd has booted")
    # As on a machine: credentials are mounted by a process of their own, and are seen by all.
    booted.run("mount --make-rshared /")
    yield booted
    docker_engine.run("rm", "--force", "machine")


def test_starts_ready_confined_and_stops(machine: BootedContainer) -> None:
    """The unit verifies without a word, starts with no configuration at all, runs as nobody's user, and stops by itself."""
    assert machine.run(f"systemd-analyze verify {NAME}.service") == ""
    machine.run(f"systemd-analyze security --no-pager --threshold={EXPOSURE} {NAME}.service")

    machine.run(f"systemctl start {NAME}")
    assert machine.show("ActiveState") == "active"
    assert "The scheduler runs" in machine.fetch("/-/healthy")
    assert machine.targets() == []
    eventually(lambda: machine.show("StatusText") == "no target yet", "the status says what is watched")
    assert "llm_probe_exporter_build_info" in machine.fetch("/metrics")

    status = machine.run(f"cat /proc/{machine.show('MainPID')}/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(fields["Uid"].split()[0]) >= 61184, "not a dynamic user"
    assert {fields[key] for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0000000000000000"}
    assert fields["NoNewPrivs"] == "1"

    machine.run(f"systemctl stop {NAME}")
    assert (machine.show("Result"), machine.show("ExecMainStatus")) == ("success", "0")


def test_writes_nowhere(machine: BootedContainer) -> None:
    """The service can't write outside its private folder for temporary files, and sees neither homes nor devices."""
    machine.run(f"echo secret > /root/secret && chmod 644 /root/secret && systemctl start {NAME}")
    for folder in (f"/etc/{NAME}", f"/opt/{NAME}", "/usr", "/var/lib", "/var/tmp/..", "/home", "/root", "/sys", "/run"):
        assert re.search(r"Read-only|denied", machine.as_service(f"touch {folder}/mark")), folder
    assert machine.as_service("touch /tmp/mark && echo written") == "written"
    assert machine.run("ls /tmp/mark", check=False).endswith("No such file or directory")
    assert "denied" in machine.as_service("cat /root/secret")
    assert machine.as_service("ls /dev/sda /dev/vda /dev/kmsg /dev/mem").count("No such file") == 4
    # The kernel's release and the GPUs' folders are among the facts that the exporter reads.
    assert machine.as_service("cat /proc/sys/kernel/osrelease") == machine.run("uname -r")
    assert "denied" not in machine.as_service("ls /sys/class/ /sys/module/")


def test_reloads_what_is_right_and_refuses_what_is_wrong(machine: BootedContainer) -> None:
    """A reload takes a changed file over without a restart; a wrong file makes it fail, says where, and changes nothing."""
    machine.run(f"systemctl start {NAME}")
    pid = machine.show("MainPID")
    machine.write(CONFIG, "targets: [{name: one, url: 'http://127.0.0.1:8001'}]\n")
    machine.run(f"systemctl reload {NAME}")
    eventually(lambda: machine.targets() == ["one"], "the new target is there")

    machine.write(CONFIG, "targets: [{name: two, urll: 'http://127.0.0.1:8002'}]\n")
    assert "failed" in machine.run(f"systemctl reload {NAME}", check=False)
    assert f"{CONFIG}:1: targets[0].urll: unknown key: did you mean url?" in machine.journal()
    assert machine.targets() == ["one"]
    assert machine.show("MainPID") == pid

    # What is wrong at the start would be as wrong at the next one, so there is none.
    machine.run(f"systemctl restart {NAME}", check=False)
    eventually(lambda: machine.show("ActiveState") == "failed", "the unit has failed")
    assert (machine.show("ExecMainStatus"), machine.show("NRestarts")) == ("2", "0")


def test_the_watchdog_ends_what_hangs_and_it_comes_back(machine: BootedContainer) -> None:
    """A daemon that stops beating is killed, says where it stood, and is started anew; one that beats is left alone."""
    machine.run(f"mkdir -p {DROP_INS}")
    # Twelve seconds instead of sixty, for a beat of five.
    machine.write(f"{DROP_INS}/test.conf", "[Service]\nWatchdogSec=12\nTimeoutStopSec=3\nRestartSec=1\n")
    machine.run(f"systemctl daemon-reload && systemctl start {NAME}")
    pid = machine.show("MainPID")
    time.sleep(14)
    assert machine.show("MainPID") == pid, "killed while it was alive"

    machine.run(f"kill -STOP {pid}")
    eventually(lambda: machine.show("MainPID") not in {pid, "0"}, "another process runs")
    eventually(lambda: machine.show("ActiveState") == "active", "it is ready")
    assert machine.show("NRestarts") == "1"
    assert "Failed with result 'watchdog'" in machine.journal()
    # systemd lets a stopped process run again before it ends it, so its threads can be shown.
    assert "Fatal Python error: Aborted" in machine.journal()
    assert "The scheduler runs" in machine.fetch("/-/healthy")


def test_reads_a_home_folders_cache_through_the_drop_in(machine: BootedContainer) -> None:
    """Without the drop-in the homes are closed; with it the cache is read and can't be written, and nothing beside it is seen."""
    hub, blob, commit = "/home/alice/.cache/huggingface/hub", "a" * 64, "b" * 40
    machine.run(
        f"useradd --create-home alice && mkdir -p {hub}/models--Qwen--Qwen3-14B && cd {hub}/models--Qwen--Qwen3-14B"
        f" && mkdir -p blobs refs snapshots/{commit} && printf {commit} > refs/main"
        f" && head -c 4000 /dev/zero > blobs/{blob} && ln -s ../../blobs/{blob} snapshots/{commit}/model.safetensors"
        " && echo diary > /home/alice/diary && chown -R alice: /home/alice && chmod 700 /home/alice/.cache"
    )
    machine.write(CONFIG, f"cache: {{paths: [{{name: huggingface, kind: huggingface, path: {hub}}}]}}\n")
    machine.run(f"systemctl start {NAME}")
    assert "denied" in machine.as_service(f"ls {hub}")

    told = machine.run("/src/deploy/systemd/install.sh --with home-cache=alice --dry-run")
    assert f"writing {DROP_INS}/home-cache.conf" in told
    machine.run(
        f"mkdir -p {DROP_INS} && sed s,@HOME@,/home/alice,g"
        f" /src/deploy/systemd/{NAME}.service.d/home-cache.conf > {DROP_INS}/home-cache.conf"
        f" && systemctl daemon-reload && systemctl restart {NAME}"
    )
    assert machine.as_service(f"ls {hub}") == "models--Qwen--Qwen3-14B"
    assert "Read-only" in machine.as_service(f"touch {hub}/mark")
    assert "No such file" in machine.as_service("cat /home/alice/diary")
    eventually(lambda: "llm_model_cache_bytes{" in machine.fetch("/metrics"), "the cache is measured")
    assert re.search(
        r'^llm_model_cache_bytes\{cache="huggingface"\} 4000(\.0)?$', machine.fetch("/metrics"), re.MULTILINE
    )
    machine.run(f"systemd-analyze security --no-pager --threshold={EXPOSURE} {NAME}.service")


def test_a_key_from_a_credential(machine: BootedContainer) -> None:
    """A key that only root can read reaches the daemon as a credential, and nobody else."""
    path = f"/run/credentials/{NAME}.service/vllm-key"
    machine.run(f"mkdir -p {DROP_INS} && printf canary-4711 > /etc/{NAME}/keys/vllm && chmod 600 /etc/{NAME}/keys/vllm")
    machine.write(f"{DROP_INS}/key.conf", f"[Service]\nLoadCredential=vllm-key:/etc/{NAME}/keys/vllm\n")
    machine.write(CONFIG, f"targets: [{{name: one, url: 'http://127.0.0.1:8001', api_key_file: {path}}}]\n")
    machine.run(f"systemctl daemon-reload && systemctl start {NAME}")
    assert machine.targets() == ["one"]
    assert machine.as_service(f"cat {path}") == "canary-4711"
    assert "denied" in machine.as_service(f"cat /etc/{NAME}/keys/vllm")
    assert "denied" in machine.run(f"setpriv --reuid=65534 --clear-groups cat {path}", check=False)
    assert "canary-4711" not in machine.journal() + machine.fetch("/metrics") + machine.fetch("/api/v1/status")


def test_the_device_drop_in_gives_a_right_and_no_device(machine: BootedContainer) -> None:
    """The GPU drop-in puts a class of devices on the unit's list of permissions while /dev stays private.

    There is no GPU here, so the class is replaced by one that every kernel has.
    """
    machine.run(
        f"mkdir -p {DROP_INS}"
        f" && sed s/char-drm/char-misc/ /src/deploy/systemd/{NAME}.service.d/kfd.conf > {DROP_INS}/kfd.conf"
        f" && systemctl daemon-reload && systemctl start {NAME}"
    )
    permitted = machine.run(f"cat /sys/fs/cgroup/devices/system.slice/{NAME}.service/devices.list")
    assert "c 10:* rw" in permitted.splitlines()
    assert "misc" not in machine.as_service("ls /dev")
    assert machine.show("PrivateDevices") == "yes"
    machine.run(f"systemd-analyze security --no-pager --threshold={EXPOSURE} {NAME}.service")


def test_install_again_and_uninstall(machine: BootedContainer) -> None:
    """A second installation keeps what the user wrote; uninstalling leaves only that, and --purge nothing."""
    installer = "/src/deploy/systemd/install.sh"
    machine.run(f"echo '# mine' >> {CONFIG} && mkdir -p {DROP_INS} && echo '[Service]' > {DROP_INS}/mine.conf")
    machine.run(f"systemctl enable --now --quiet {NAME}")
    told = machine.run(f"{installer} --dry-run")
    assert f"{CONFIG} is kept as it is" in told
    assert f"+ systemctl restart {NAME}" in told

    told = machine.run(f"{installer} uninstall")
    assert f"your settings stay: /etc/{NAME}" in told
    assert machine.run(f"systemctl is-active {NAME}", check=False) == "inactive"
    assert (
        machine.run(f"ls -d /opt/{NAME} /usr/local/lib/systemd/system/{NAME}.service", check=False).count("No such")
        == 2
    )
    assert machine.run(f"tail -1 {CONFIG}") == "# mine"
    assert machine.run(f"ls {DROP_INS}") == "mine.conf"
    machine.run(f"{installer} uninstall --purge")
    gone = (f"/etc/{NAME}", DROP_INS, f"/var/lib/{NAME}", f"/var/lib/private/{NAME}")
    assert machine.run(f"ls -d {' '.join(gone)}", check=False).count("No such") == len(gone)
