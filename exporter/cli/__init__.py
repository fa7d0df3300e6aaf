"""The command line. Results go to stdout, everything else to stderr."""

from exporter.cli.commands import main

__all__ = ["main"]
