"""The system that the platform runs: the control plane of live media."""
