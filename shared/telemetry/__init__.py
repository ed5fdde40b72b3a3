"""What people see of a worker: logs, traces, metrics. Every name is in `names.py`."""
