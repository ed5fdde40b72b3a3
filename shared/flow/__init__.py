"""How much work is let in at once, whose it is, and whether it can still end in time."""
