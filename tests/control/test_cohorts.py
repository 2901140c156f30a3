"""Several cohorts in one room: regrouping, alarms of a batcher, and what the columns make of both."""

from __future__ import annotations
