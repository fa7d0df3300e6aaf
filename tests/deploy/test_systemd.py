"""The unit, its drop-ins and the installer, as far as no systemd is needed."""

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from exporter.settings import load

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT = FOLDER / "llm-probe-exporter.service"
DROP_INS = sorted((FOLDER / "llm-probe-exporter.service.d").glob("*.conf"))
INSTALLER = FOLDER / "install.sh"


def values(path: Path, key: str) -> list[str]:
    """The values of a key in the section [Service], in their order."""
    return re.findall(rf"^{key}=(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)


def install(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installer; it may only tell."""
    return subprocess.run(
        ["sh", INSTALLER, *arguments],
        capture_output=True, text=True, check=False, timeout=60, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip


def test_the_unit_is_read_as_meant() -> None:
    """It says when it is ready, is watched, comes back, but not with a wrong configuration, and has a user of its own."""
    text = re.sub(r"^(?=[A-Z]\w+=)", "", UNIT.read_text(encoding="utf-8"))
    parser = configparser.RawConfigParser(strict=False)
    parser.read_string(text)
    service = parser["Service"]
    expected = {
        "Type": "notify", "NotifyAccess": "main", "WatchdogSec": "60", "Restart": "on-failure",
        "RestartPreventExitStatus": "2", "DynamicUser": "yes", "LimitCORE": "0", "OOMPolicy": "continue", "ProtectSystem": "strict",
        "ProtectHome": "yes", "PrivateDevices": "yes", "CapabilityBoundingSet": "",
        "StateDirectory": "llm-probe-exporter", "StateDirectoryMode": "0700",
    }  # fmt: skip
    assert {key: service[key] for key in expected} == expected
    assert parser["Install"]["WantedBy"] == "multi-user.target"
    assert not {"CPUQuota", "CPUWeight", "Nice"} & {key for key in service if key != key.lower()}
    # What the exporter reads must stay visible.
    assert "ProcSubset" not in text
    # What bounds the scanning processes is allowed again after the list that forbids it.
    assert values(UNIT, "SystemCallFilter")[-1].split() == ["setpriority", "setrlimit", "prlimit64"]
    assert float(service["WatchdogSec"]) >= 60


def test_the_environment_and_the_configuration_are_right() -> None:
    """The shipped files are taken as they are, change nothing, and their commented examples are right, too."""
    lines = (FOLDER / "environment").read_text(encoding="utf-8").splitlines()
    environment = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert environment == {"LLM_PROBE_CONFIG": "/etc/llm-probe-exporter/config.yml"}
    assert load(FOLDER / "config.yml", environment) == load(None, {})


def test_the_commented_example_is_right(tmp_path: Path) -> None:
    """With the comment marks taken off, and the files that it names made, the example is a right configuration."""
    text = (FOLDER / "config.yml").read_text(encoding="utf-8")
    example = "\n".join(line[2:] for line in text.splitlines() if re.match(r"# ( +\S|[a-z_]+:( |$))", line))
    for name in ("/run/credentials/llm-probe-exporter.service/vllm-key", "/etc/llm-probe-exporter/web.yml"):
        assert name in example
        file = tmp_path / Path(name).name
        file.write_text("basic_auth_users: {prom: $2b$04$" + "a" * 53 + "}", encoding="utf-8")
        example = example.replace(name, str(file))
    (tmp_path / "config.yml").write_text(example, encoding="utf-8")
    settings = load(tmp_path / "config.yml", {})
    assert [target.name for target in settings.targets] == ["vllm"]
    assert settings.listen == "0.0.0.0:9937"


@pytest.mark.parametrize("drop_in", DROP_INS, ids=lambda path: path.stem)
def test_drop_ins_loosen_one_thing(drop_in: Path) -> None:
    """A drop-in says why it is there, sets something, and grants no capability unless it is uncommented."""
    text = drop_in.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert re.search(r"^\[Service\]\n\w+=", text, re.MULTILINE)
    assert not values(drop_in, "AmbientCapabilities")
    assert not values(drop_in, "NoNewPrivileges")


def test_exposure_and_syntax(tmp_path: Path) -> None:
    """The unit verifies without a word, alone and with each drop-in, and its exposure is at most 1.7 of 10."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is missing")
    text = UNIT.read_text(encoding="utf-8").replace("/opt/llm-probe-exporter/bin/llm-probe-exporter", "/bin/true")
    for drop_in in (None, *DROP_INS):
        folder = tmp_path / (drop_in.stem if drop_in else "alone")
        folder.mkdir()
        added = drop_in.read_text(encoding="utf-8").replace("@HOME@", "/home/alice") if drop_in else ""
        unit = folder / UNIT.name
        unit.write_text(f"{text}\n{added}", encoding="utf-8")
        verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
        own = [line for line in verified.stderr.splitlines() if UNIT.name in line]
        assert own == [], drop_in
        command = ["systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=17", str(unit)]
        judged = subprocess.run(command, capture_output=True, text=True, check=False)
        assert judged.returncode == 0, f"{drop_in}: {judged.stdout[-200:]}"


def test_the_installer_tells_and_touches_nothing(tmp_path: Path) -> None:
    """A dry run names every command, in a folder of its own where one is given, and changes nothing."""
    done = install("--dry-run", "--destdir", str(tmp_path / "root"), "--with", "kfd", "--prefix", "/usr/local/lib/lpe")
    assert done.returncode == 0, done.stderr
    told = done.stdout
    assert "--require-hashes" in told
    assert f"install -m 0644 {FOLDER}/config.yml {tmp_path}/root/etc/llm-probe-exporter/config.yml" in told
    assert f"{tmp_path}/root/etc/systemd/system/llm-probe-exporter.service.d/kfd.conf" in told
    assert f"venv --clear --without-pip {tmp_path}/root/usr/local/lib/lpe" in told
    assert "systemctl" not in told
    assert not (tmp_path / "root").exists()


def test_the_installer_keeps_what_is_there(tmp_path: Path) -> None:
    """A configuration of the user's stays; a folder that is none of ours is not replaced, and not removed either."""
    config = tmp_path / "etc" / "llm-probe-exporter" / "config.yml"
    config.parent.mkdir(parents=True)
    config.write_text("# mine\n", encoding="utf-8")
    assert f"{config} is kept as it is" in install("--dry-run", "--destdir", str(tmp_path)).stdout
    stranger = tmp_path / "opt" / "llm-probe-exporter"
    stranger.mkdir(parents=True)
    (stranger / "diary").write_text("mine", encoding="utf-8")
    refused = install("--dry-run", "--destdir", str(tmp_path))
    assert refused.returncode == 1
    assert f"{stranger} exists and is not llm-probe-exporter" in refused.stderr
    removed = install("uninstall", "--destdir", str(tmp_path))
    assert f"{stranger} is not llm-probe-exporter: it is not removed" in removed.stdout
    assert (stranger / "diary").exists()
    assert config.exists()


def test_the_installer_purges_settings_and_history(tmp_path: Path) -> None:
    """Without --purge the configuration and the history stay, with it nothing does."""
    made = [tmp_path / each / "llm-probe-exporter" for each in ("etc", "var/lib", "var/lib/private")]
    for folder in made:
        folder.mkdir(parents=True)
    told = install("uninstall", "--destdir", str(tmp_path)).stdout
    assert f"the history too: {made[1]}" in told
    assert all(folder.exists() for folder in made)
    assert install("uninstall", "--purge", "--destdir", str(tmp_path)).returncode == 0
    assert not any(folder.exists() for folder in made)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dry-run", "--wheel"], "--wheel needs a value"),
        (["--nonsense"], "unknown argument: --nonsense"),
        (["--prefix", "opt"], "use an absolute path"),
        (["--prefix", "/opt/a b"], "use letters, digits"),
        (["--python", "/bin/false", "--dry-run"], "must be Python 3.11 or newer"),
        (["--wheel", "/no/such.whl", "--dry-run"], "there is no such file"),
        (["--with", "magic", "--dry-run"], "choose kfd, docker, processes or home-cache=USER"),
        (["--with", "home-cache", "--dry-run"], "needs a user: home-cache=alice"),
        (["--with", "home-cache=no-such-user", "--dry-run"], "there is no user no-such-user"),
    ],
)
def test_the_installer_refuses(arguments: list[str], message: str, tmp_path: Path) -> None:
    """A wrong call is an error that names what is wrong, before anything happens."""
    done = install("--destdir", str(tmp_path), *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_installer_sets_its_umask() -> None:
    """Before anything is made: a shell with umask 0 leaves nothing that others can write, one with 077 nothing unreadable."""
    text = INSTALLER.read_text(encoding="utf-8")
    assert text.index("\numask 022\n") < text.index("\nhere=")
