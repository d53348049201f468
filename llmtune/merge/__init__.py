"""Base and adapter as one model, with the measured distance to the adapter it came from."""
