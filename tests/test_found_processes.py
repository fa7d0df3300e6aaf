"""Server processes that nobody named, found by a running daemon at whatever port they have.

They run in a toolbox: only then are they looked for without a read of this machine's usual ports.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.containers.documents import made_up
from tests.containers.made_up_engine import running_engine
from tests.host.proc_tree import ProcTree
from tests.ports import free_port
from tests.real.daemon import forked_daemon, scrape, value
from tests.servers.llama_cpp import SimulatedLlamaServer
from tests.waiting import eventually

SOCKET = 4711
TOOLBOX = made_up(["sleep", "infinity"], image="docker.io/kyuz0/amd-strix-halo-toolboxes:vulkan-radv")
NAME = "made-up"
NONE_FOUND = "no inference server found"


def port_of(server: SimulatedLlamaServer) -> int:
    """Where a simulated server listens."""
    return int(server.url.rpartition(":")[2])


def tree_with_network(folder: Path, at: int) -> ProcTree:
    """A ``/proc`` in whose network somebody listens at a port."""
    tree = ProcTree(folder)
    for each in ("1", "self"):
        (tree.path / each / "net" / "tcp").unlink()
    tree.network(1, (at, 1000, SOCKET))
    tree.network("self", like=1)
    return tree


def start(tree: ProcTree, at: int) -> None:
    """Let a llama-server be among the processes of the toolbox."""
    command = ("llama-server", "-m", "/models/tiny.gguf", "--port", str(at))
    tree.add(
        4242,
        command,
        environment={},
        libraries=[],
        group=f"/system.slice/docker-{TOOLBOX['Id']}.scope",
        sockets=(SOCKET,),
        cwd="/",
    )


@contextmanager
def searching(tmp_path: Path, tree: ProcTree) -> Iterator[int]:
    """A daemon that looks for servers once an hour, and besides when it sees one come; gives its port."""
    port, config = free_port(), tmp_path / "config.yml"
    with running_engine(tmp_path / "e.sock", TOOLBOX) as engine:
        config.write_text(f"""
discovery: {{local: false, docker: true, interval: 1h}}
docker: {{host: '{engine.host}'}}
host: {{proc: '{tree.path}', sysfs: '{tmp_path}', rocm: '{tmp_path}', interval: 5s}}
cache: {{paths: []}}
history: {{path: none}}
""")
        with forked_daemon("--config", config, port=port, log=tmp_path / "log"):
            yield port


def is_up(port: int) -> bool:
    """Whether the daemon watches the server and has an answer of it."""
    return value(scrape(port), "llm_target_up", target=NAME) == 1


def test_a_server_that_runs_at_the_start_is_found_by_the_first_search(tmp_path: Path) -> None:
    """The first search knows the processes: it finds the server, and does not say before that there is none."""
    with SimulatedLlamaServer() as server:
        tree = tree_with_network(tmp_path / "proc", port_of(server))
        start(tree, port_of(server))
        with searching(tmp_path, tree) as port:
            eventually(lambda: is_up(port), "the server is found and up")
        assert NONE_FOUND not in (tmp_path / "log").read_text()


def test_a_server_that_starts_later_is_found_when_its_process_is_seen(tmp_path: Path) -> None:
    """It does not wait for the next search, which is an hour away."""
    with SimulatedLlamaServer() as server:
        tree = tree_with_network(tmp_path / "proc", port_of(server))
        with searching(tmp_path, tree) as port:
            eventually(lambda: NONE_FOUND in (tmp_path / "log").read_text(), "the first search is over")
            start(tree, port_of(server))
            eventually(lambda: is_up(port), "the server is found and up")
