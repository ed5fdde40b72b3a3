"""The bus: a port of four small promises, and its adapters for Azure Service Bus and for tests."""
