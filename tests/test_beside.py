"""No body holds the loop, whatever its shape: what is long is read beside it."""

import asyncio
import json
import time
from contextlib import suppress
from functools import partial

import pytest

from dmap.errors import BadRequest
from dmap.web.beside import beside
from dmap.wire.body import peek
from dmap.wire.form import peek_form
from dmap.wire.limits import MAX_MEMBERS, MAX_VALUES

SIZE, LONG = 16 * 2**20, 64 * 2**20
STALL_S = 0.1
"""What may pass where `YARDSTICK` is read in `YARD_S`; on a slower machine it is as many times as much."""
YARDSTICK, YARD_S = b"[" + b'"a",12,' * 100_000 + b"1]", 0.01
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
    "empty lists": lambda: filled(b"[],", b'{"messages":[', b"[]]}"),
    "as many messages as may be": lambda: listed(b'{"role":"user","content":""}', MAX_MEMBERS // 2 - 1),
    "as many objects as may be": lambda: listed(b"{}", MAX_VALUES // 2 - 1),
    "long fractions": lambda: listed(b"1.2345678901234567e-300", MAX_VALUES - 2, b"prompt"),
    "digits": lambda: filled(b"7", b'{"messages":', b"}"),
    "emoji": lambda: said("🙂".encode()),
    "NUL": lambda: said(b"\\u0000"),
    "commas": lambda: said(b","),
    "white space": lambda: filled(b" ", b'{"model":"m"', b"}"),
    "names in all cases": lambda: names(MAX_MEMBERS - 1),
    "a name": lambda: filled(b"k", b'{"', b'":1}'),
    "a model": lambda: filled(b"m", b'{"model":"', b'"}'),
}
"""One of each cause; `bench/attack/shapes.py` has four times as many, at 64 MiB, for `make soak`."""
FORMS = {
    "near boundaries": lambda: filled(b"\r\n--" + b"b" * 69, b"--" + b"b" * 70 + b"\r\n", size=LONG),
    "boundaries": lambda: filled(b"--" + b"b" * 70 + b"\r\n", size=LONG),
    "a head": lambda: filled(
        b"X: y\r\n", b"--" + b"b" * 70 + b"\r\n", b"\r\n--" + b"b" * 70 + b"--", size=LONG
    ),
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
    slowness = max(1.0, yard_s() / YARD_S)
    longest_s = STALL_S
    for _ in range(3):
        longest_s = min(longest_s, await _once(size, read) / slowness)
        if longest_s < STALL_S:
            break
    return longest_s


def yard_s():
    """Return the CPU time that `YARDSTICK` takes here and now."""
    began = time.process_time()
    json.loads(YARDSTICK)
    return time.process_time() - began


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
    """While any body of up to 16 MiB is read, or refused, the loop goes on."""
    body = NASTY[shape]()

    assert len(body) <= SIZE
    assert await stall_of(len(body), partial(peek, body)) < STALL_S


@pytest.mark.parametrize("shape", FORMS)
async def test_no_form_holds_the_loop(shape):
    """So it does while a form is looked through."""
    body = FORMS[shape]()

    assert await stall_of(len(body), partial(peek_form, body, KIND)) < STALL_S


@pytest.mark.parametrize("boundary", ["-" * 20 + "x", "-" * 35 + "x" + "-" * 34, "m" * 35 + "x" + "m" * 34])
@pytest.mark.parametrize("letter", [b"-", b"m"])
async def test_no_boundary_holds_the_loop(boundary, letter):
    """Nor does a boundary that is nearly found at each byte."""
    body = filled(letter, f"--{boundary}\r\n".encode(), f"\r\n--{boundary}--".encode(), size=LONG)

    work = partial(peek_form, body, f"multipart/form-data; boundary={boundary}")

    assert await stall_of(len(body), work) < STALL_S


async def test_short_bodies_are_read_at_once():
    """A short body takes no thread, and the refusal comes as it is."""
    with pytest.raises(BadRequest):
        await beside(2, partial(peek, b"[]"))
