"""Every method on the embedded base: what it trains, what comes of it, whether it merges and reloads."""
