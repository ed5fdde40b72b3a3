"""The life of a delivery: decode, recognise, handle, send, settle, emit."""
