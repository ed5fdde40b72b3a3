"""What a queue does, without a protocol: messages, locks, sessions, time."""
