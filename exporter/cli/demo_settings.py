"""What `demo` watches: its simulated servers, often, and nothing else."""

from typing import Final

from exporter.demo import SimulatedServers
from exporter.settings import Budget, Discovery, HistoryFile, Module, Settings, Target

# The slowest simulated server takes ten seconds for a probe.
INTERVAL_SECONDS: Final = 15.0


def demo_settings(servers: SimulatedServers) -> Settings:
    """Settings with a target for each simulated server, and no history file."""
    targets = [
        # Nobody else uses these servers: their probes may take all of their time.
        Target(name=each.name, url=url, scenario=each.scenario or "auto", budget=Budget(share=1.0))
        for each, url in servers.urls
    ]
    return Settings(
        targets=tuple(targets),
        modules={
            "default": Module(interval=INTERVAL_SECONDS),
            "canary": Module(interval=6 * INTERVAL_SECONDS, max_tokens=512, depth=2048),
        },
        discovery=Discovery(local=False, docker=False),
        history=HistoryFile(path="none"),
    )
