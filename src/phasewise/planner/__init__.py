"""Searches over deployments: `simulate()` is their inner call. They hold no scheduling logic and no model of a machine."""
