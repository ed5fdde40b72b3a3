"""XML: what is refused before it does harm, and text that survives the way there and back."""

from xml.etree.ElementTree import fromstring

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus_local.admin.xml import (
    INSTANCE,
    Unreadable,
    child,
    children,
    instance_type,
    local,
    parse,
    quoted,
    tag,
    text_of,
)
from tests.examples import examples

LAUGHS = b"""<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;">]>
<lolz>&lol2;</lolz>"""


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{}", id="JSON"),
        pytest.param(b"<a>", id="not closed"),
        pytest.param(b"<a></b>", id="closed by another"),
        pytest.param(b"<a/><b/>", id="two roots"),
        pytest.param(b"<p:a/>", id="a prefix nobody knows"),
        pytest.param(b'<a b="1" b="2"/>', id="an attribute twice"),
        pytest.param(b"<a>&nbsp;</a>", id="an entity nobody knows"),
        pytest.param(b"<a>\xff</a>", id="not UTF-8"),
        pytest.param(b"<a>\x01</a>", id="a control character"),
        pytest.param(b'<?xml version="1.0" encoding="klingon"?><a/>', id="an encoding nobody knows"),
        pytest.param(b"<!DOCTYPE a><a/>", id="a document type"),
        pytest.param(b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', id="a document type outside"),
        pytest.param(b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', id="a file"),
        pytest.param(LAUGHS, id="a billion laughs"),
        pytest.param(b"<a>" * 33 + b"</a>" * 33, id="too deep"),
    ],
)
def test_what_is_not_read_here_is_refused_with_a_sentence(document: bytes) -> None:
    with pytest.raises(Unreadable, match=r"not XML that is read here: \S"):
        parse(document)


@examples(200)
@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(document: bytes) -> None:
    try:
        parse(document)
    except Unreadable:
        return


def test_names_keep_their_namespace_and_lose_their_prefix() -> None:
    root = parse(f'<x:a xmlns:x="urn:x" xmlns:i="{INSTANCE}" i:type="d:string">t<x:b><c/></x:b></x:a>'.encode())
    assert (root.tag, local(root), root.text) == ("{urn:x}a", "a", "t")
    assert instance_type(root) == "string"
    [inner] = children(root, "b")
    assert inner.tag == "c"
    assert (text_of(root, "b"), text_of(root, "d")) == ("", None)
    assert child(root, "d") is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1"])
def test_documents_say_how_they_are_encoded(encoding: str) -> None:
    name = encoding.removesuffix("-sig")
    assert parse(f'<?xml version="1.0" encoding="{name}"?><a>é</a>'.encode(encoding)).text == "é"


_TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff", include_characters="\t\n\r")
)


@given(_TEXT)
def test_text_is_read_back_as_it_was_written(text: str) -> None:
    assert (fromstring(tag("a", text)).text or "") == text


@given(st.text())
def test_every_written_value_can_be_read(text: str) -> None:
    assert fromstring(tag("a", text)).tag == "a"
    assert fromstring(f"<a b={quoted(text)}/>").get("b") is not None
