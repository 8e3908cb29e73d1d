"""Media equipment: its records, and the gateway that it connects to."""
