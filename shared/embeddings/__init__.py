"""Texts as vectors: by meaning (dense, from a model) and by words (sparse, computed here)."""
