"""Azure Service Bus, through the unmodified `azure-servicebus` async SDK.

Only `pump` knows more of it than its public API.
"""

from shared.bus.servicebus.client import Patience, ServiceBus, ServiceBusAddress

__all__ = ["Patience", "ServiceBus", "ServiceBusAddress"]
