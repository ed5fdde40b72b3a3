"""The HTTP side: health, connections, and the read half of the ATOM API."""
