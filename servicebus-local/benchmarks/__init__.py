"""What the local broker costs, next to what the unmodified SDK costs in the same run: `python -m benchmarks`."""
