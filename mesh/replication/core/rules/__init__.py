"""The merge rules, one file for each kind. `mesh.replication.core.cells` lists them."""
