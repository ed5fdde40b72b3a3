"""Redis: the quick connection to it, and the cache of answers."""
