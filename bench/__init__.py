"""Measurements of a running server: what its callers would see."""
