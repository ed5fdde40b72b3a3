"""When a deployment may be called: its quota, shared by all replicas, and the line of what waits for it."""
