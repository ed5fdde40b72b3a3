"""The workers: one folder each, one image each. They know the messages, never one another."""
