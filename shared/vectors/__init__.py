"""Passages and documents: where the knowledge is kept, behind two small ports."""
