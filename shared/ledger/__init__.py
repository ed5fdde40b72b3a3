"""What has been done: which requests were accepted, and which outcome each one got."""
