"""Batchers: what runs next on one replica."""
