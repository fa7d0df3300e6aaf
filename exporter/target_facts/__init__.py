"""What is known of a target: its own API, its container or process, the GPU and the files of its model, brought together. Pure.

Each source knows a part, and none knows all: the server its model, its command line its switches, sysfs the bandwidth, the
files the weights. If two sources differ, the server's own answer wins over its launch settings, and both lose to what the user
set.
"""

from exporter.target_facts.facts import settings_in, target_facts_of
from exporter.target_facts.gpu import serving_of
from exporter.target_facts.hints import connections_to, hints_of
from exporter.target_facts.info import info_of, judged_figures, judgement_of, service_of
from exporter.target_facts.server import SERVER_COLLECTORS, Machine, is_local, machine_of, setup_of, starts_of
from exporter.target_facts.weights import model_paths, paths_of

__all__ = [
    "SERVER_COLLECTORS",
    "Machine",
    "connections_to",
    "hints_of",
    "info_of",
    "is_local",
    "judged_figures",
    "judgement_of",
    "machine_of",
    "model_paths",
    "paths_of",
    "service_of",
    "serving_of",
    "settings_in",
    "setup_of",
    "starts_of",
    "target_facts_of",
]
