"""Base models: where they come from, what their family needs, how they are loaded, how they speak."""
