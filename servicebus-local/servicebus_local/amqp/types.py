"""AMQP 1.0 types: values to bytes and back (specification part 1).

    null None          boolean bool         float, double  float       string  str
    binary bytes       symbol  Symbol       list  list                 map     dict
    uuid   Uuid        timestamp Timestamp  array Array                described Described
    every integer type decodes to a plain int; encode one by wrapping it (`Uint(7)`)
    inside maps and as descriptors numbers keep their types, because those are given back to clients
    a type Python has no word for (decimals, char) stays what it was on the wire: `Raw`

Decoding never trusts a length, a count or a depth, and raises nothing but `DecodeError`; what it
returns can always be encoded.
"""

from servicebus_local.amqp.decoding import decode, decode_list, skip
from servicebus_local.amqp.encoding import (
    FALSE,
    NULL,
    TRUE,
    compound_list,
    compound_map,
    encode,
    encode_array,
    encode_binary,
    encode_boolean,
    encode_int,
    encode_list,
    encode_long,
    encode_map,
    encode_string,
    encode_symbol,
    encode_timestamp,
    encode_uint,
    encode_ulong,
)
from servicebus_local.amqp.values import (
    Array,
    Byte,
    DecodeError,
    Described,
    Float,
    Int,
    Raw,
    Short,
    Symbol,
    Timestamp,
    Ubyte,
    Uint,
    Ulong,
    Ushort,
    Uuid,
)

__all__ = [
    "FALSE",
    "NULL",
    "TRUE",
    "Array",
    "Byte",
    "DecodeError",
    "Described",
    "Float",
    "Int",
    "Raw",
    "Short",
    "Symbol",
    "Timestamp",
    "Ubyte",
    "Uint",
    "Ulong",
    "Ushort",
    "Uuid",
    "compound_list",
    "compound_map",
    "decode",
    "decode_list",
    "encode",
    "encode_array",
    "encode_binary",
    "encode_boolean",
    "encode_int",
    "encode_list",
    "encode_long",
    "encode_map",
    "encode_string",
    "encode_symbol",
    "encode_timestamp",
    "encode_uint",
    "encode_ulong",
    "skip",
]
