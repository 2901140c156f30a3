"""Routers: which replica serves a request."""
