"""Judging models for a machine: what ``zhibei fit``, ``recommend`` and ``hardware`` answer, here or for a client of the server.

Brings library, planner, hardware and what was measured together; prints nothing, and starts nothing.
"""
