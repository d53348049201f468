"""The plan: steps, tokens and memory, by arithmetic alone, before anything is loaded."""
