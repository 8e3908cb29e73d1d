"""What operators set beside the contract, in `mesh.yaml`: `traffic`.

The contract says what may be called and how often it is tried; this says where calls go for now.
"""

from mesh.traffic.changes import changes
from mesh.traffic.model import Bounds, Drill, Mirror, Traffic, Version
from mesh.traffic.read import TrafficError, read

__all__ = ["Bounds", "Drill", "Mirror", "Traffic", "TrafficError", "Version", "changes", "read"]
