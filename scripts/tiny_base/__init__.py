"""Builds the embedded base model: its text, its tokenizer, its weights and its model card."""
