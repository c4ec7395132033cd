"""Measurements: ours beside its peers, and what callers of a running server see."""
