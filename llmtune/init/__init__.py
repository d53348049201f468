"""From a data file, a base and a card to a recipe with its reasons: what can be seen is not asked."""
