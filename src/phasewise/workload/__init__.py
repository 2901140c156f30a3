"""What arrives when, how long it is, and the truth that no policy may see. It knows no model, device or policy."""

from phasewise.workload.merge import merge
from phasewise.workload.readers.trace import read_trace
from phasewise.workload.source import DEFAULT_REQUESTS, builtin_names, load, read_description
from phasewise.workload.truth import Truth
from phasewise.workload.workload import Workload

__all__ = ["DEFAULT_REQUESTS", "Truth", "Workload", "builtin_names", "load", "merge", "read_description", "read_trace"]
