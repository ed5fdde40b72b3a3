"""The gateway: two doors, one admission; and whoever has to be told, is told."""
