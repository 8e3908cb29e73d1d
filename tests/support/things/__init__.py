"""A workload whose contract uses every option of methods and entities that replication obeys.

`contract` reads it, with the platform's own services, from `things.proto`; `serving` is the
process: it changes and reads entities as it is told.
"""
