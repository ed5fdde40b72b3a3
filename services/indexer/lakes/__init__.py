"""Where documents lie: the port of a lake, and its adapters."""
