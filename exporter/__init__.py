"""A Prometheus exporter that measures LLM inference servers as their clients see them."""

__version__ = "0.1.0"
