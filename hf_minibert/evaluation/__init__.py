"""Metrics, as functions and as `evaluate` modules that need no network."""
