"""The platform: what makes contracts into a running mesh of regions."""
