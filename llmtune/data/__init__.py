"""Data: from a file in any common form to tokens of which it is known which are trained."""
