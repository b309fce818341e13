"""How values are shown to a user: in words, as text and in a notebook."""
