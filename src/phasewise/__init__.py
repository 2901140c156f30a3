"""Phasewise plans, simulates and serves large language models phase by phase."""

__version__ = "0.1.0"
