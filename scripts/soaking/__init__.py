"""The soak of scripts/soak: a training killed again and again, and what must be true each time."""
