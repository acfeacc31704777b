"""Values of results: their forms, their bits, and the edges of their types."""
