"""A run: profiles, items, surveys, judging in children, waivers, the journal, reproducers."""
