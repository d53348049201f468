"""The recipe: every option there is, read strictly, and turned into the libraries' own arguments."""
