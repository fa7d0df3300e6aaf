"""What must hold of the figures of any model, whatever its files are."""

from exporter.cache.facts import WeightFacts

SIZED = (
    "weight_bytes",
    "input_embedding_bytes",
    "layers",
    "kv_heads",
    "head_dim",
    "active_bytes",
    "kv_elements_per_token",
)


def check(facts: WeightFacts | None) -> None:
    """Each figure is absent, or a whole number that the rest of the exporter may reckon with."""
    for name in SIZED if facts is not None else ():
        figure = getattr(facts, name)
        assert figure is None or (type(figure) is int and 0 <= figure < 1 << 63), f"{name} is {figure}"
