"""Peers: their environments, their models, and a server around the one that has none."""
