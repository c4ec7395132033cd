"""What is measured: one process each, which answers JSON lines. `protocol` is their side of it.

A peer's process runs in the peer's own environment: it imports what that has, and `protocol`.
"""
