"""Settings: frozen classes read from `RAGBUS_*` variables, with defaults that run on a laptop."""
