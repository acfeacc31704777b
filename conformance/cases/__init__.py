"""Cases are data: one call each, its layout and values; what may be drawn, how a case is made smaller."""
