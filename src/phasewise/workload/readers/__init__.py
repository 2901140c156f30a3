"""Readers of request traces, one format each, and what they share."""
