"""AMQP 1.0 without sockets: types, frames, and the state of one connection."""
