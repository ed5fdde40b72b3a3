"""Azure Service Bus, through the public API of the `azure-servicebus` async SDK and nothing else."""

from shared.bus.servicebus.client import Patience, ServiceBus, ServiceBusAddress

__all__ = ["Patience", "ServiceBus", "ServiceBusAddress"]
