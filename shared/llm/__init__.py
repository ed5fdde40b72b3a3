"""Models: the registry of deployments, the client that reaches them, and the size of a text in tokens."""
