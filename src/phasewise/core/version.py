"""The version, once: packaging reads it from here, and every log carries it."""

from importlib.util import find_spec

VERSION = "0.1.0"

_found = find_spec("phasewise.core.kv")
COMPILED = _found is not None and not str(_found.origin).endswith(".py")
"""Whether the hot modules are machine code (`make fast`); what they say is the same."""
