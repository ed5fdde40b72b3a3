"""A local Azure Service Bus: AMQP 1.0 for the unmodified SDKs, HTTP for administration."""
