"""Tests of proxy/core/heads.py: what a request head is, and everything that only looks like one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.heads import fault

GOOD: tuple[bytes, ...] = (
    b"GET / HTTP/1.1\r\nHost: a\r\n",
    b"GET / HTTP/1.1\r\nHost:\r\n",
    b"GET / HTTP/1.1\r\nHost: [::1]:5000\r\n",
    b"GET /v1/models/a%2Fb:free?x=1&y HTTP/1.1\r\nHost: a:80\r\nX-Empty:\r\nX-Tab:\ta\tb \r\n",
    b"POST / HTTP/1.1\r\nHOST: a\r\nContent-Length: 5\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\ncontent-length:5 \r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length-Of-Mine: five\r\nTransfer-Encoding-Not: gzip\r\nHostess: x y\r\n",
    b"GET http://a/b HTTP/1.1\r\nHost: a\r\n",
    b"GET http://a/?b HTTP/1.1\r\nHost: a\r\n",
    b"GET /a?b=http://c HTTP/1.1\r\nHost: a\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n",
    b"GET / HTTP/1.0\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: \xc3\xa4\xff\r\n",
)
BAD: tuple[bytes, ...] = (
    b"GET / HTTP/1.1\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n",
    b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n",
    b"GET / HTTP/1.1\r\nHost: a b\r\n",
    b"GET / HTTP/1.1\r\nHost: a,b\r\n",
    b"GET / HTTP/1.1\r\nHost: a@b\r\n",
    b"GET / HTTP/1.1\r\nHost : a\r\n",
    b"GET / HTTP/1.1\r\n Host: a\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\t2\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: a\nY: b\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rY: b\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX(Y): a\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\xc3\xa4: a\r\n",
    b"GET  / HTTP/1.1\r\nHost: a\r\n",
    b"GET /a b HTTP/1.1\r\nHost: a\r\n",
    b"GET http://a HTTP/1.1\r\nHost: a\r\n",
    b"GET HTTPS://a:443 HTTP/1.1\r\nHost: a\r\n",
    b"GET x://a?b/c HTTP/1.1\r\nHost: a\r\n",
    b"GET / HTTP/1.1 \r\nHost: a\r\n",
    b" GET / HTTP/1.1\r\nHost: a\r\n",
    b"GET /\x00 HTTP/1.1\r\nHost: a\r\n",
    b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n",
    b"GET / HTTP/2.0\r\nHost: a\r\n",
    b"GET / HTTP/1.2\r\nHost: a\r\n",
    b"GET /\r\nHost: a\r\n",
    b"GET / HTTP/1.1\nHost: a\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \u0665\r\n".encode(),
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n",
    b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n",
)
"""Each is a head that some server reads otherwise than another one does."""


@pytest.mark.parametrize("head", GOOD)
def test_what_a_head_is(head: bytes) -> None:
    """Everything that RFC 9112 allows and somebody sends passes."""
    assert fault(head) is None


@pytest.mark.parametrize("head", BAD)
def test_what_only_looks_like_one(head: bytes) -> None:
    """Everything that two servers may read in two ways is refused with a reason."""
    assert fault(head)


@given(st.binary(max_size=200))
def test_whatever_comes_has_an_answer(noise: bytes) -> None:
    """No bytes break it, and none that hold a control character get through."""
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + noise + b"\r\n"
    if any(byte < 32 and byte != 9 for byte in noise.replace(b"\r\n", b"")):
        assert fault(head)
    else:
        fault(head)
