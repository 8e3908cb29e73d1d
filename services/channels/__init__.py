"""What operators want on air, and who encodes it."""
