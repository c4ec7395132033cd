"""Trials of a server's worst days: load, faults and hostile input, over loopback alone."""
