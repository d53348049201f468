"""The embedded support data set: an invented outdoor shop, what people ask it, and what it answers."""
