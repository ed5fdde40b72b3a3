"""Logs, traces and metrics of a worker. Every name is in `names.py`."""
