"""The engine's side against a made-up engine on a real socket: gone containers, refusals, silence, nonsense."""

import base64
import io
import json
import logging
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from exporter.containers.engine import EVENTS, Engine, default_host
from exporter.containers.errors import EngineError, explain, shown
from exporter.containers.facts import ImageRocm
from tests.containers.documents import CANARY, load
from tests.containers.made_up_engine import PREFIX, SILENCE, EngineAnswer, MadeUpEngine, running_engine

FIRST, SECOND = load("vllm-aiter-host-network"), load("llama-cpp-bind-mount")


@pytest.fixture
def made_up_engine(tmp_path: Path) -> Iterator[MadeUpEngine]:
    """An engine with one container."""
    with running_engine(tmp_path / "e.sock", FIRST) as server:
        yield server


def archive(text: str = "", *, link: str = "", size: int | None = None) -> EngineAnswer:
    """The answer to an archive call: a stat in a header, a tar of one member."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("version")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text.encode()))
    stat = {"size": size or len(text), "mode": 134218239 if link else 420, "linkTarget": link}
    header = base64.b64encode(json.dumps(stat).encode()).decode()
    return EngineAnswer(buffer.getvalue(), headers={"X-Docker-Container-Path-Stat": header})


def test_a_reading(made_up_engine: MadeUpEngine) -> None:
    """One list, one document for each container, versioned paths."""
    reading = Engine(made_up_engine.host, 10).read()
    assert [each.name for each in reading.containers] == ["vllm-awq"]
    assert reading.problem == ""
    assert made_up_engine.calls[f"{PREFIX}/containers/json"] == 1


def test_files_are_read_once_for_an_image(made_up_engine: MadeUpEngine) -> None:
    """A second reading asks for no file again, whether the first found a version or not."""
    engine = Engine(made_up_engine.host, 10)
    made_up_engine.has_file(FIRST, "/opt/rocm/.info/version", archive("7.2.1-43\n"))
    for _ in range(2):
        assert engine.read().containers[0].rocm == ImageRocm("7.2.1-43", "7.2", "file")
    made_up_engine.holds(SECOND)
    for _ in range(2):
        assert engine.read().containers[0].rocm is None
    files = {call: count for call, count in made_up_engine.calls.items() if "archive" in call}
    assert len(files) > 10
    assert set(files.values()) == {1}


def test_a_link_is_followed_once(made_up_engine: MadeUpEngine) -> None:
    """A version file that is a link is read where it leads; a chain of links is given up."""
    made_up_engine.has_file(FIRST, "/opt/rocm/.info/version", archive(link="/opt/rocm-7/v"))
    made_up_engine.has_file(FIRST, "/opt/rocm-7/v", archive("7.0.2"))
    assert Engine(made_up_engine.host, 10).read().containers[0].rocm == ImageRocm("7.0.2", "7.0", "file")
    made_up_engine.has_file(FIRST, "/opt/rocm-7/v", archive(link="/opt/rocm/.info/version"))
    assert Engine(made_up_engine.host, 10).read().containers[0].rocm is None


def test_a_large_file_is_not_read(made_up_engine: MadeUpEngine) -> None:
    """What is larger than a version file is left alone, whether its stat says so or its body."""
    made_up_engine.has_file(FIRST, "/opt/rocm/.info/version", archive("7.2.1", size=10**9))
    made_up_engine.has_file(FIRST, "/opt/rocm/core/.info/version", archive("7.2.1" + " " * 10**6, size=5))
    reading = Engine(made_up_engine.host, 10).read()
    assert (reading.available, reading.containers[0].rocm) == (True, None)


def test_a_container_that_goes_between_list_and_document(made_up_engine: MadeUpEngine) -> None:
    """Its 404 is no problem of the reading."""
    made_up_engine.holds(FIRST, SECOND)
    del made_up_engine.answers[f"{PREFIX}/containers/{FIRST['Id']}/json"]
    reading = Engine(made_up_engine.host, 10).read()
    assert ([each.name for each in reading.containers], reading.problem) == (["llama"], "")


def test_one_broken_container_takes_no_other_down(made_up_engine: MadeUpEngine) -> None:
    """A container that the engine itself can't describe is named as a problem; the rest is read."""
    made_up_engine.holds(FIRST, SECOND)
    made_up_engine.answers[f"{PREFIX}/containers/{FIRST['Id']}/json"] = EngineAnswer({"message": CANARY}, 500)
    reading = Engine(made_up_engine.host, 10).read()
    assert [each.name for each in reading.containers] == ["llama"]
    assert FIRST["Id"][:12] in reading.problem
    assert CANARY not in reading.problem


def test_a_container_of_no_interest_is_read_once(made_up_engine: MadeUpEngine) -> None:
    """What is no inference server and can't become one is not asked for again."""
    other = {**FIRST, "Config": {"Image": "nginx", "Cmd": ["nginx"]}, "Path": "nginx", "Args": []}
    made_up_engine.holds(other)
    engine = Engine(made_up_engine.host, 10)
    for _ in range(3):
        assert engine.read().containers == ()
    assert made_up_engine.calls[f"{PREFIX}/containers/{other['Id']}/json"] == 1


def refuse(engine: MadeUpEngine, wanted: Callable[[str], bool]) -> None:
    """Let a proxy refuse all paths that are wanted so."""
    for path in [*engine.answers, f"{PREFIX}/containers/{FIRST['Id']}/archive?path=%2Fopt%2Frocm%2F.info%2Fversion"]:
        if wanted(path):
            engine.answers[path] = EngineAnswer(b"Forbidden", 403)


def test_a_proxy_that_refuses_files(made_up_engine: MadeUpEngine) -> None:
    """The reading goes on without them and says which call to allow; it asks for no second file."""
    refuse(made_up_engine, lambda path: "archive" in path)
    reading = Engine(made_up_engine.host, 10).read()
    assert (reading.available, len(reading.containers)) == (True, 1)
    assert "GET /containers/{id}/archive is refused" in reading.problem
    assert sum("archive" in call for call in made_up_engine.calls) == 1


def test_a_proxy_that_refuses_the_version(made_up_engine: MadeUpEngine) -> None:
    """Without the version's call the paths go without one."""
    made_up_engine.answers = {path.removeprefix(PREFIX): answer for path, answer in made_up_engine.answers.items()}
    refuse(made_up_engine, lambda path: path == "/version")
    assert len(Engine(made_up_engine.host, 10).read().containers) == 1


def test_a_proxy_that_refuses_all(made_up_engine: MadeUpEngine) -> None:
    """Where not even the list is allowed, the problem names it."""
    refuse(made_up_engine, lambda path: path != "/version")
    reading = Engine(made_up_engine.host, 10).read()
    assert not reading.available
    assert "GET /containers/json is refused (403)" in reading.problem


def test_what_is_known_while_the_engine_is_away(made_up_engine: MadeUpEngine) -> None:
    """A reading that fails holds no container as present, and those that were last seen as last seen."""
    engine = Engine(made_up_engine.host, 10)
    before = engine.read()
    made_up_engine.answers[f"{PREFIX}/containers/json"] = EngineAnswer(b"", 500)
    away = engine.read()
    assert (away.available, away.containers) == (False, ())
    assert away.last_known == before.containers == before.last_known


def test_one_container_that_hangs(made_up_engine: MadeUpEngine) -> None:
    """An engine that can't describe one container in time takes no other down, and that one stays what it was."""
    made_up_engine.holds(FIRST, SECOND)
    engine = Engine(made_up_engine.host, 1)
    before = engine.read()
    assert len(before.containers) == 2
    made_up_engine.answers[f"{PREFIX}/containers/{FIRST['Id']}/json"] = SILENCE
    after = engine.read()
    assert after.containers == before.containers
    assert f"container {FIRST['Id'][:12]}" in after.problem


def test_files_that_hang(made_up_engine: MadeUpEngine) -> None:
    """Files that don't come in time cost the version, not the container."""
    made_up_engine.has_file(FIRST, "/opt/rocm/.info/version", SILENCE)
    reading = Engine(made_up_engine.host, 1).read()
    assert (len(reading.containers), reading.containers[0].rocm) == (1, None)
    assert "could not be read in time" in reading.problem


def test_a_change_in_the_midst_of_a_reading(made_up_engine: MadeUpEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an event says while a reading runs is in that reading; changes without end don't keep it from ending."""
    engine = Engine(made_up_engine.host, 10)
    read, readings = engine._read_containers, []

    def read_and_change(*arguments: Any) -> Any:
        seen = read(*arguments)
        readings.append(seen)
        if len(readings) == 1:
            made_up_engine.holds(FIRST, SECOND)
            engine._changes_seen += 1
        return seen

    monkeypatch.setattr(engine, "_read_containers", read_and_change)
    assert [each.name for each in engine.read().containers] == ["vllm-awq", "llama"]
    assert len(readings) == 2
    monkeypatch.setattr(Engine, "_changes_seen", property(lambda _: object()), raising=False)
    assert len(engine.read().containers) == 2
    assert len(readings) == 2 + 3


def test_an_engine_that_hangs(made_up_engine: MadeUpEngine) -> None:
    """Silence ends the reading after the timeout and says so."""
    made_up_engine.answers[f"{PREFIX}/containers/json"] = SILENCE
    reading = Engine(made_up_engine.host, 0.2).read()
    assert not reading.available
    assert "did not answer within 0.2 s" in reading.problem


@pytest.mark.parametrize("body", [b"", b"<html>", b"[" * 100_000, b"null", b'{"a": 1}', b'[null, 7, {"Id": 3}]'])
def test_nonsense(made_up_engine: MadeUpEngine, body: bytes) -> None:
    """An answer that is not the API gives no container and no exception."""
    made_up_engine.answers[f"{PREFIX}/containers/json"] = EngineAnswer(body)
    assert Engine(made_up_engine.host, 10).read().containers == ()


def test_a_list_without_end(made_up_engine: MadeUpEngine) -> None:
    """An answer is read up to a bound."""
    made_up_engine.answers[f"{PREFIX}/containers/json"] = EngineAnswer(b"[" + b" " * (5 << 20) + b"]")
    reading = Engine(made_up_engine.host, 10).read()
    assert "larger than" in reading.problem


def test_a_redirect_is_not_followed(made_up_engine: MadeUpEngine) -> None:
    """An engine can't send the exporter to another address."""
    made_up_engine.answers[f"{PREFIX}/containers/json"] = EngineAnswer(b"", 302, {"Location": "http://127.0.0.1:1/"})
    assert "answered 302" in Engine(made_up_engine.host, 10).read().problem


def test_a_problem_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log has one line for a socket that stays away, and none above information: no engine is normal."""
    caplog.set_level(logging.DEBUG, logger="exporter.containers")
    engine = Engine(f"unix://{tmp_path}/none.sock", 1)
    problems = {engine.read().problem for _ in range(3)}
    assert problems == {f"no container engine at unix://{tmp_path}/none.sock: there is no such socket"}
    assert [record.levelno for record in caplog.records] == [logging.INFO]


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("ssh://user@host", "ssh://host: only unix://, tcp:// and https://"),
        ("tcp://127.0.0.1:1", "nothing listens"),
        ("nonsense://x", "can't be reached by the address"),
        ("tcp://user:secret@127.0.0.1:1", "can't be reached by the address"),
    ],
)
def test_addresses_that_give_nothing(host: str, says: str) -> None:
    """An address that can't be used is a problem with a reason, and shows no password."""
    problem = Engine(host, 1).read().problem
    assert says in problem
    assert "secret" not in problem


def test_the_default_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """DOCKER_HOST wins, else the first socket that is there, Podman's among them."""
    assert default_host({"DOCKER_HOST": "tcp://h:1"}) == "tcp://h:1"
    there: set[str] = set()
    monkeypatch.setattr(Path, "exists", lambda self: str(self) in there)
    assert default_host({}) == "unix:///var/run/docker.sock"
    there.add("/run/user/1000/podman/podman.sock")
    assert default_host({"XDG_RUNTIME_DIR": "/run/user/1000"}) == "unix:///run/user/1000/podman/podman.sock"
    there.add("/var/run/docker.sock")
    assert default_host({}) == "unix:///var/run/docker.sock"


def test_explanations_tell_no_secret() -> None:
    """Neither an address's password nor an unknown error's text is repeated."""
    assert shown("tcp://user:secret@h:1") == "tcp://h:1"
    assert explain(OSError(CANARY), "tcp://h:1", 5) == "the container engine at tcp://h:1 could not be read (OSError)"
    assert explain(EngineError("GET /x answered 500"), "tcp://h:1", 5).endswith("GET /x answered 500")


def test_a_watch_over_a_stream_of_events(made_up_engine: MadeUpEngine) -> None:
    """The watch calls at its start, once for each event, and ends when it is told to."""
    filters = urlencode({"filters": json.dumps(EVENTS)})
    made_up_engine.answers[f"{PREFIX}/events?{filters}"] = EngineAnswer(b'{"status":"die"}\n{"status":"start"}\n')
    calls = threading.Semaphore(0)
    cancellation = threading.Event()
    engine = Engine(made_up_engine.host, 10)
    thread = engine.watch(calls.release, cancellation)
    assert all(calls.acquire(timeout=10) for _ in range(3))
    cancellation.set()
    engine.close()
    thread.join(10)
    assert not thread.is_alive()


def test_a_watch_survives_what_it_calls(made_up_engine: MadeUpEngine, caplog: pytest.LogCaptureFixture) -> None:
    """A listener that raises is logged, and called again at the next change."""
    calls = threading.Semaphore(0)

    def listener() -> None:
        calls.release()
        raise RuntimeError("listener")

    refuse(made_up_engine, lambda path: "events" in path)
    cancellation = threading.Event()
    engine = Engine(made_up_engine.host, 10)
    thread = engine.watch(listener, cancellation)
    assert calls.acquire(timeout=10)
    cancellation.set()
    engine.close()
    thread.join(10)
    assert not thread.is_alive()
    assert "could not be handled" in caplog.text


@pytest.mark.parametrize(("headers", "backend"), [({}, "llama_cpp"), ({"Libpod-API-Version": "5.4.0"}, None)])
def test_podman_is_not_asked_what_runs_beside_the_whole_machine(
    made_up_engine: MadeUpEngine, headers: dict[str, str], backend: str | None
) -> None:
    """Of a container with the machine's processes it lists all of the machine: a server of another would be taken for its own."""
    document = load("toolbox")
    document["HostConfig"]["PidMode"] = "host"
    made_up_engine.holds(document)
    path = f"{PREFIX}/containers/{document['Id']}"
    made_up_engine.answers[f"{path}/json"] = EngineAnswer(document, headers=headers)
    made_up_engine.answers[f"{path}/top?ps_args=-efww"] = EngineAnswer(load("toolbox.top"))
    (found,) = Engine(made_up_engine.host).read().containers
    assert found.backend == backend
