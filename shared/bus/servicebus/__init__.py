"""Azure Service Bus, through the unmodified `azure-servicebus` async SDK and its public API only."""

from shared.bus.servicebus.client import ServiceBus, ServiceBusAddress

__all__ = ["ServiceBus", "ServiceBusAddress"]
