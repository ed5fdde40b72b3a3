"""Whatever comes in, nothing is raised, and what goes out is well-formed."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from fuzz.application import SMALL, Application
from fuzz.conversation import chunks, conversation, spoiled
from servicebus_local.amqp import frames
from servicebus_local.amqp.connection import Connection
from tests.examples import examples

HEADERS = st.sampled_from([b"", frames.SASL_HEADER, frames.AMQP_HEADER])


def have(data: bytes, random: Random) -> bytes:
    """Let a connection have the bytes in pieces; return what it wrote."""
    application = Application(Connection(limits=SMALL))
    application.feed(chunks(random, data))
    return application.leave()


@examples(150)
@given(HEADERS, st.binary(max_size=300), st.randoms(use_true_random=False))
def test_any_bytes_are_survived(header: bytes, rest: bytes, random: Random) -> None:
    have(header + rest, random)


@examples(200)
@given(st.randoms(use_true_random=False), st.integers(0, 40))
def test_a_spoiled_conversation_is_survived(random: Random, steps: int) -> None:
    have(spoiled(random, conversation(random, steps)), random)


@examples(100)
@given(st.integers(0, 2**32), st.integers(0, 30), st.randoms(use_true_random=False))
def test_how_the_stream_is_cut_makes_no_difference(seed: int, steps: int, random: Random) -> None:
    data = b"".join(conversation(Random(seed), steps))
    whole = Application(Connection())
    whole.feed([data])
    assert have_roomy(data, random) == whole.leave()


def have_roomy(data: bytes, random: Random) -> bytes:
    """Do as `have` does, without limits one could meet: when they are met depends on when output is taken."""
    application = Application(Connection())
    application.feed(chunks(random, data))
    return application.leave()
