"""How fast the Service Bus adapter is, next to what one would write with the SDK alone."""
