"""Replication without I/O: state machines that take messages, ticks and store results.

Nothing in here waits, reads a clock, opens a file or knows a contract.
"""
