"""The generator: candidates in, one verified answer out."""
