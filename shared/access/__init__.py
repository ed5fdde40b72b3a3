"""Who may read and ask what; deny by default."""
