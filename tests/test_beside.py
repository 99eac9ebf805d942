"""No body holds the loop, whatever its shape: what is long is read beside it."""

import asyncio
import time
from contextlib import suppress
from functools import partial

import pytest

from dmap.errors import BadRequest
from dmap.web.beside import beside
from dmap.wire.body import peek
from dmap.wire.form import peek_form
from dmap.wire.limits import MAX_MEMBERS, MAX_VALUES

SIZE = 64 * 2**20
STALL_S = 0.1
KIND = f"multipart/form-data; boundary={'b' * 70}"


def filled(piece, before=b"", after=b"", size=SIZE):
    return before + piece * ((size - len(before) - len(after)) // len(piece)) + after


def said(text):
    return filled(text, b'{"model":"m","messages":[{"role":"user","content":"', b'"}]}')


def listed(piece, count, name=b"messages"):
    return b'{"model":"m","' + name + b'":[' + b",".join([piece] * count) + b"]}"


def cased(number):
    """Write one of a million spellings of a word of 20 letters."""
    letters = enumerate(b"abcdefghijklmnopqrst")
    return bytes(letter ^ (32 * (number >> place & 1)) for place, letter in letters)


def names(count):
    """Write an object with so many spellings of one word."""
    return b"{" + b",".join(b'"%b":1' % cased(number) for number in range(count)) + b"}"


NASTY = {
    "brackets": lambda: filled(b"["),
    "empty lists": lambda: filled(b"[],", b'{"messages":[', b"[]]}"),
    "objects in objects": lambda: filled(b'{"a":'),
    "tiny messages": lambda: listed(b'{"role":"user","content":""}', 700_000),
    "as many messages as may be": lambda: listed(b'{"role":"user","content":""}', MAX_MEMBERS // 2 - 1),
    "as many tools as may be": lambda: listed(b'{"type":"function"}', MAX_MEMBERS - 2, b"tools"),
    "as many objects as may be": lambda: listed(b"{}", MAX_VALUES // 2 - 1),
    "objects and texts": lambda: listed(b'"a",{}', MAX_VALUES // 3 - 1, b"input"),
    "numbers": lambda: listed(b"12345", MAX_VALUES - 2, b"prompt"),
    "long fractions": lambda: listed(b"1.2345678901234567e-300", MAX_VALUES - 2, b"prompt"),
    "digits": lambda: filled(b"7", b'{"messages":', b"}", 10 * 2**20),
    "text": lambda: said(b"x"),
    "Chinese": lambda: said("語".encode()),
    "emoji": lambda: said("🙂".encode()),
    "line ends": lambda: said(b"\\n"),
    "NUL": lambda: said(b"\\u0000"),
    "commas": lambda: said(b","),
    "quotes": lambda: said(b'\\",'),
    "white space": lambda: filled(b" ", b'{"model":"m"', b"}"),
    "white space in a link": lambda: filled(
        b" ", b'{"messages":[{"content":[{"image_url":{"url":"', b'"}}]}]}'
    ),
    "no UTF-8 at the end": lambda: said(b"x")[:-5] + b'\xff"}]}',
    "the same name": lambda: filled(b'"k":1,', b"{", b'"k":1}', 6 * (MAX_MEMBERS - 1)),
    "names in all cases": lambda: names(MAX_MEMBERS - 1),
    "too many names": lambda: names(MAX_MEMBERS + 1),
    "one deep in another": lambda: b'{"messages":' + b'[{"content":' * 300 + b"[]" + b"}]" * 300 + b"}",
}
FORMS = {
    "near boundaries": lambda: filled(b"\r\n--" + b"b" * 69, b"--" + b"b" * 70 + b"\r\n"),
    "dashes": lambda: filled(b"-"),
    "boundary letters": lambda: filled(b"b", b"--"),
    "boundaries": lambda: filled(b"--" + b"b" * 70 + b"\r\n"),
    "a head": lambda: filled(b"X: y\r\n", b"--" + b"b" * 70 + b"\r\n", b"\r\n--" + b"b" * 70 + b"--"),
}


class Stalls:
    """
    How long the loop did not come round, at the most, in CPU time of this process.

    What other processes take of the machine meanwhile is none of it.
    """

    def __init__(self):
        self.longest_s = 0.0

    async def watch(self):
        last = time.process_time()
        while True:
            await asyncio.sleep(0.001)
            now = time.process_time()
            self.longest_s, last = max(self.longest_s, now - last), now


async def stall_of(size, read):
    """
    Return for how long *read*, of a body of *size* bytes, held the loop, at the least of three times.

    On a machine that is busy with other things the loop may not get a processor although it could go on.
    """
    longest_s = STALL_S
    for _ in range(3):
        longest_s = min(longest_s, await _once(size, read))
        if longest_s < STALL_S:
            break
    return longest_s


async def _once(size, read):
    stalls = Stalls()
    watch = asyncio.create_task(stalls.watch())
    await asyncio.sleep(0)
    with suppress(BadRequest):
        await beside(size, read)
    await asyncio.sleep(0.002)
    watch.cancel()
    return stalls.longest_s


@pytest.mark.parametrize("shape", NASTY)
async def test_no_body_holds_the_loop(shape):
    """While any body of up to 64 MiB is read, or refused, the loop goes on."""
    body = NASTY[shape]()

    assert len(body) <= SIZE
    assert await stall_of(len(body), partial(peek, body)) < STALL_S


@pytest.mark.parametrize("shape", FORMS)
async def test_no_form_holds_the_loop(shape):
    """So it does while a form is looked through."""
    body = FORMS[shape]()

    assert await stall_of(len(body), partial(peek_form, body, KIND)) < STALL_S


async def test_short_bodies_are_read_at_once():
    """A short body takes no thread, and the refusal comes as it is."""
    with pytest.raises(BadRequest):
        await beside(2, partial(peek, b"[]"))
