"""What an AMQP address can lead to: $cbs, $management, or a queue."""
