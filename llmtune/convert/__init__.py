"""From another tool's configuration to a recipe, with a word on each of its keys. One way: nothing goes back."""
