"""The gateway: asks come in by queue or HTTP, pass one admission, and get their outcome."""
