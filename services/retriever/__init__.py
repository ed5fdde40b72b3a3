"""Finds passages for a question: `retrieve.v1` in, `generate.v1` out."""
