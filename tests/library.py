"""The same metrics through the client library: slower than the exporter's own exposition, and its reference."""

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import Metric

from exporter import exposition
from exporter.metrics import COLLECTORS, FAMILIES
from exporter.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class LibraryCollector:
    """The families of a snapshot for a registry: ``registry.register(LibraryCollector(snapshot))``."""

    snapshot: Snapshot

    def collect(self) -> Iterator[Metric]:
        """Yield the families of one view, those without samples left out."""
        view = self.snapshot.view()
        found: dict[str, Metric] = {}
        failed = False
        for source in exposition._SOURCES:
            keyed = [(names, source.parts(view, names)) for names in exposition._keys(source, view)]
            if source is COLLECTORS:
                keyed.append(exposition._own_run(failed=failed))
            for family in exposition._FAMILIES_OF[source]:
                metric = found[family.name] = family.metric()
                for names, parts in keyed:
                    series = exposition._guarded(family, names, parts)
                    failed = failed or series is None
                    for each in series or ():
                        metric.add_sample(f"{family.name}{each.suffix}", dict(each.labels), each.value)
        yield from (found[family.name] for family in FAMILIES if found[family.name].samples)
