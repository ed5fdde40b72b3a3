"""Which requests were accepted, and which outcome each one got."""
