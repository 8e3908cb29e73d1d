"""`make bench-replication`: replication against its peers, and how it grows.

Each region is a process with one real group: SQLite with FULL sync, links over gRPC. A change
counts once the region that wrote it knows that it is merged and durable in the other.
"""
