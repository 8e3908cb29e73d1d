"""The control plane: sidecars and gRPC clients get their configuration from here, as xDS."""
