"""Keeps the index like the lake: a storage event in, passages and a registry entry changed."""
