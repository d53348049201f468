"""llmtune: fine-tune a language model with an adapter, and prove what came out."""

__version__ = "0.1.0"
