"""Cases as data: one call each, its layout and values; the factors to draw from, and the shrinking of a case."""
