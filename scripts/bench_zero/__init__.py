"""`scripts/bench zero`: the same losses, however a training is spread."""
