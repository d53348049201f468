"""Talking to what was made."""
