"""The command line: verbs over the library. It holds no logic that a library caller would miss."""

from phasewise.cli.entry import main

__all__ = ["main"]
