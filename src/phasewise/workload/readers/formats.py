"""The formats of traces as published, and how to tell them apart by their first line. They know no rate and no model."""

from __future__ import annotations

import phasewise.workload.readers.text as t
from phasewise.core.errors import InputError
from phasewise.workload.readers.csv import (
    ARRIVAL,
    GONE,
    IDS,
    LABEL,
    MORE_LABEL,
    NOTHING,
    OUTPUT,
    PROMPT,
    Column,
    Format,
)

_TOKENS = {
    "input_tokens": Column(PROMPT, t.tokens, t.all_tokens),
    "output_tokens": Column(OUTPUT, t.tokens, t.all_tokens),
}
_MORE = {
    "gone_s": Column(GONE, t.leaving, t.all_leaving),
    "class": Column(LABEL, t.label, t.all_labels),
    "prefix_block_ids": Column(IDS, t.block_ids, t.all_block_ids),
}
_WHAT = "a trace is CSV text whose first line names the columns"

PLAIN = Format(_WHAT, {"arrival_s": Column(ARRIVAL, t.seconds, t.all_seconds), **_TOKENS}, _MORE, True)
"""The house's own: seconds, or milliseconds in a column that says so; block ids of 512 tokens, as Mooncake has them."""

MILLIS = Format(_WHAT, {"arrival_ms": Column(ARRIVAL, t.milliseconds, t.all_milliseconds), **_TOKENS}, _MORE, True)

AZURE = Format(
    "an Azure trace has",
    {
        "TIMESTAMP": Column(ARRIVAL, t.stamp, t.all_stamps),
        "ContextTokens": Column(PROMPT, t.maybe_tokens, t.all_maybe_tokens),
        "GeneratedTokens": Column(OUTPUT, t.maybe_tokens, t.all_maybe_tokens),
    },
    {},
    drops=True,
    dated=True,
)
"""Azure/AzurePublicDataset, AzureLLMInferenceDataset2023 and 2024 (the latter with a zone behind each stamp)."""

BURSTGPT = Format(
    "a BurstGPT trace has",
    {
        "Timestamp": Column(ARRIVAL, t.seconds, t.all_seconds),
        "Model": Column(LABEL, t.label, t.all_labels),
        "Request tokens": Column(PROMPT, t.maybe_tokens, t.all_maybe_tokens),
        "Response tokens": Column(OUTPUT, t.maybe_tokens, t.all_maybe_tokens),
        "Total tokens": Column(NOTHING, t.ignored, t.all_ignored),
        "Log Type": Column(MORE_LABEL, t.label, t.all_labels),
    },
    {},
    drops=True,
)
"""HPMLL/BurstGPT (Wang et al., arXiv 2401.17644): an answer of 0 tokens is a failed request."""

_TABLES = {
    "t_s,rate_rps": "a curve of rates, not a trace; name it in a description: arrivals: {kind: curve, file: ...}",
    "mean_rate_rps,interarrival_cv": "clients, not a trace; name it in a description: arrivals: {kind: clients, file: ...}",
    "side,tokens_from": "a histogram of lengths, not a trace; name it in a description: prompt: {kind: histogram, file: ...}",
    "input_tokens,output_tokens": "lengths without arrivals; name it in a description: prompt: {kind: empirical, file: ...}",
}


def recognised(header: str, place: str) -> Format:
    """The format that a CSV's first line belongs to; the house's own if it is like no other.

    InputError for a table that a description can use but that is no trace.
    """
    names = {name.strip() for name in header.split(",")}
    for start, what in _TABLES.items():
        if set(start.split(",")) <= names and not {"arrival_s", "arrival_ms"} & names:
            raise InputError(f"is {what}", place)
    if "TIMESTAMP" in names:
        return AZURE
    if {"Timestamp", "Request tokens"} & names:
        return BURSTGPT
    return MILLIS if "arrival_ms" in names and "arrival_s" not in names else PLAIN
