"""Multipart forms in which one parser finds another model than the next."""

import itertools
import random
from collections.abc import Iterator

from bench.attack.attack import MAY, MAY_NOT, SPEECH, Attack

_B = b"b"
_SEPARATORS = [bytes([code]) for code in (*range(1, 33), 0x7F, 0x85, 0xA0)] + [
    b"\xc2\x85",
    b"\xc2\xa0",
    b"\xe2\x80\xa8",
    b"",
]
_NAMES = (
    b"name=model",
    b'name="model"',
    b"name*=utf-8''model",
    b"name*=model",
    b"name*0=model",
    b'name*0="mo"; name*1="del"',
    b"name*0*=utf-8''model",
    b'NAME="model"',
    b'name = "model"',
    b'name="\\m\\o\\del"',
    b'name="=?utf-8?q?model?="',
    b"name='model'",
    b'name="mod%65l"',
)
_CHARSETS = (
    "utf-8",
    "punycode",
    "utf-7",
    "utf-16",
    "idna",
    "latin-1",
    "cp037",
    "rot13",
    "unicode_escape",
    "hex",
    "zlib",
    "raw_unicode_escape",
)

_GUARDED = {
    "url": b"http://127.0.0.1:9",
    "image_url": b"http://127.0.0.1:9",
    "file_url": b"http://127.0.0.1:9",
    "image": b"http://127.0.0.1:9",
    "keep_alive": b"0",
    "draft_model": MAY_NOT,
    "context_length": b"9999",
    "integrations": b"mcp/playwright",
}
"""Guarded fields as a form says them."""


def forms(seed: int, fuzzed: int) -> Iterator[Attack]:
    """Yield every attempt by a form; the last *fuzzed* of them by chance."""
    yield from _dispositions()
    yield from _parts()
    yield from _boundaries()
    yield from _kinds()
    for name, value in _GUARDED.items():
        for word in (name, name.upper(), f"{name}[]", name.replace("_", "-")):
            yield _form(part(MAY), part(value, f'name="{word}"'.encode()), _upload())
    yield _form(part(MAY), _upload(), innocent=True)
    yield _form(
        _upload("t\u00f6n; name=x.wav"), part(MAY), part(b"json", b'name="response_format"'), innocent=True
    )
    yield from _fuzzed(seed, fuzzed)


def part(
    value: bytes, disposition: bytes = b'name="model"', more: bytes = b"", end: bytes = b"\r\n"
) -> bytes:
    """Return one part without its delimiters; *more* are further header lines, each with its end."""
    return b"Content-Disposition: form-data; %b%b%b%b%b" % (disposition, end, more, end, value)


def _upload(name: str = "a.wav") -> bytes:
    return part(b"RIFF", b'name="file"; filename="%b"' % name.encode(), b"Content-Type: audio/wav\r\n")


def _form(*parts: bytes, kind: str = "multipart/form-data; boundary=b", innocent: bool = False) -> Attack:
    body = b"".join(b"--b\r\n%b\r\n" % each for each in parts) + b"--b--\r\n"
    return Attack("forms", body, SPEECH, (f"Content-Type: {kind}",), innocent)


def _dispositions() -> Iterator[Attack]:
    """Names of a part behind another name, in every notation and behind every separator."""
    for name, separator in itertools.product(_NAMES, _SEPARATORS):
        for other in (b'name="x"', b'name="file"; filename="a"', b"name=x"):
            yield _form(part(MAY), part(MAY_NOT, b"%b;%b%b" % (other, separator, name)))
        yield _form(part(MAY), part(MAY_NOT, b'name="x"%b%b' % (separator, name)))
        yield _form(part(MAY), part(MAY_NOT, b'x="%b;%b";name="x"' % (separator, name)))
        yield _form(part(MAY), part(MAY_NOT, b'name="x"; filename="a%b\\"; %b"' % (separator, name)))
    for name in _NAMES[1:]:
        yield _form(part(MAY), part(MAY_NOT, name))
        yield _form(part(MAY_NOT, name), part(MAY))
        yield _form(part(MAY_NOT, name))


def _parts() -> Iterator[Attack]:
    """A second field in other letters, headers twice, folded, encoded, without their carriage return."""
    for name in (
        b"Model",
        b"MODEL",
        b"model ",
        b" model",
        b"model\\",
        b"model[]",
        b"mode\xc5\xbf",
        b"model\x00",
        b"model\xff",
    ):
        yield _form(part(MAY), part(MAY_NOT, b'name="%b"' % name))
        yield _form(part(MAY_NOT, b'name="%b"' % name), part(MAY))
    lines = (
        b'Content-Disposition: form-data; name="model"\r\n',
        b'content-disposition:form-data;name="model"\r\n',
        b'Content-Disposition : form-data; name="model"\r\n',
        b'X-A: b\nContent-Disposition: form-data; name="model"\r\n',
        b'X-A: b\rContent-Disposition: form-data; name="model"\r\n',
        b'X: y\r\n Content-Disposition: form-data; name="model"\r\n',
        b' ; name="model"\r\n',
        b'\t; name="model"\r\n',
        b"Content-Transfer-Encoding: base64\r\n",
        b"Content-Transfer-Encoding: quoted-printable\r\n",
        b"Content-Type: text/plain; charset=utf-16\r\n",
        b"Content-Type: multipart/mixed; boundary=c\r\n",
        b"Content-Length: 3\r\n",
        b"\r\n",
        b"\x00: x\r\n",
    )
    for line in lines:
        yield _form(part(MAY), part(MAY_NOT, b'name="x"', line))
        yield _form(part(MAY, more=line), part(b"x", b'name="x"'))
        yield _form(part(MAY), line + part(MAY_NOT, b'name="x"'))
    yield _form(part(MAY), part(b"punycode", b'name="_charset_"'))
    yield _form(part(b"utf-16", b'name="_charset_"'), part(MAY_NOT.decode().encode("utf-16")), part(MAY))
    for value in (b"%b\r\n" % MAY, b"%b\x00" % MAY, b" %b" % MAY, MAY + b"," + MAY_NOT, MAY + b"\xff"):
        yield _form(part(value))
    yield _form(part(MAY, end=b"\n"))
    yield _form(part(MAY), part(MAY_NOT, end=b"\n"))
    yield _form(part(MAY), part(MAY_NOT, end=b"\r"))
    yield _form(part(MAY), part(MAY_NOT, b'name="model"; filename=""'))
    yield _form(part(MAY, b'name="model"; filename="a"'), part(MAY_NOT))


def _boundaries() -> Iterator[Attack]:
    """Delimiters that only some take for one: bare line feeds, blanks behind, text around them."""
    hidden, shown = part(MAY_NOT), part(MAY)
    marks = (
        b"--b\n",
        b"\n--b\r\n",
        b"--b \r\n",
        b"--b\t\r\n",
        b"--b\r\r\n",
        b"--b",
        b"-- b\r\n",
        b"--B\r\n",
        b"--b-\r\n",
        b"\r--b\r\n",
    )
    for mark in marks:
        body = b"--b\r\n%b\r\n%b%b\r\n--b--\r\n" % (shown, mark, hidden)
        yield Attack("forms", body, SPEECH, ("Content-Type: multipart/form-data; boundary=b",))
        yield Attack(
            "forms",
            mark + hidden + b"\r\n" + body,
            SPEECH,
            ("Content-Type: multipart/form-data; boundary=b",),
        )
    whole = b"--b\r\n%b\r\n--b--\r\n" % shown
    more = b"--b\r\n%b\r\n--b--\r\n" % hidden
    for glue in (b"", b"\r\n", b"\n", b"x\r\n", b"--\r\n"):
        yield Attack("forms", whole + glue + more, SPEECH, ("Content-Type: multipart/form-data; boundary=b",))
        yield Attack(
            "forms",
            more.replace(b"--b--", b"--b") + glue + whole,
            SPEECH,
            ("Content-Type: multipart/form-data; boundary=b",),
        )
    nested = (
        b'--b\r\nContent-Disposition: form-data; name="x"\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n%b\r\n--c--\r\n'
        % hidden
    )
    yield Attack("forms", nested + whole, SPEECH, ("Content-Type: multipart/form-data; boundary=b",))


def _kinds() -> Iterator[Attack]:
    """The Content-Type itself: charsets by which names are decoded, boundaries that read two ways."""
    for charset in _CHARSETS:
        for name in _hidden_in(charset):
            for kind in (
                f"boundary=b; charset={charset}",
                f"charset={charset}; boundary=b",
                f'boundary="b"; charset="{charset}"',
            ):
                yield _form(
                    part(MAY), part(MAY_NOT, b'name="%b"' % name), kind=f"multipart/form-data; {kind}"
                )
    yield from _odd_kinds()


def _odd_kinds() -> Iterator[Attack]:
    """Boundaries said twice or oddly, kinds that are nearly a form, and two Content-Types."""
    fields = [part(MAY), part(MAY_NOT, b'name="x"')]
    odd = (
        "boundary=b; boundary=c",
        "boundary=c; boundary=b",
        "boundary*=utf-8''b; boundary=c",
        "boundary*0=b",
        "boundary=b;charset*=utf-8''utf-16",
        'boundary="b',
        "boundary=b,c",
        "boundary='b'",
        "Boundary=b",
        "boundary =b",
        "boundary=b ",
        "x=y; boundary=b",
        'x="; boundary=c"; boundary=b',
    )
    for words in odd:
        yield _form(*fields, kind=f"multipart/form-data; {words}")
        yield _form(part(MAY_NOT), kind=f"multipart/form-data; {words}")
    for kind in (
        "multipart/mixed",
        "multipart/related",
        "multipart/form-data\t",
        "multipart/form-dat\u017f",
        "MULTIPART/FORM-DATA",
        "text/plain, multipart/form-data",
    ):
        yield _form(part(MAY_NOT), kind=f"{kind}; boundary=b")
    two = _form(part(MAY), part(MAY_NOT, b'name="Model"'))
    for kind in ("application/json", "multipart/form-data; boundary=c", "application/x-www-form-urlencoded"):
        yield Attack("forms", two.body, SPEECH, (*two.headers, f"Content-Type: {kind}"))
        yield Attack("forms", two.body, SPEECH, (f"Content-Type: {kind}", *two.headers))
    yield Attack("forms", b"model=<may-not>", SPEECH, ("Content-Type: application/x-www-form-urlencoded",))
    yield Attack(
        "forms", b"model=<may>&model=<may-not>", SPEECH, ("Content-Type: application/x-www-form-urlencoded",)
    )


def _hidden_in(charset: str) -> Iterator[bytes]:
    """Yield ASCII that *charset* reads as `model`, as far as it has any."""
    yield from (b"model-", b"+AG0-odel", b"\\u006dodel", b"\\x6dodel", b"6d6f64656c", b"zbqry", b"xn--model-")
    try:
        yield "model".encode(charset)
    except (LookupError, UnicodeError):
        return


def _fuzzed(seed: int, count: int) -> Iterator[Attack]:
    rng = random.Random(seed)
    for _ in range(count):
        parts = [part(MAY), part(MAY_NOT, rng.choice(_NAMES).replace(b"model", b"x")), _upload()]
        rng.shuffle(parts)
        whole = bytearray(_form(*parts).body)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(whole))
            piece = rng.choice(
                (*_SEPARATORS, b"\r\n", b"--b", b'"', b";", rng.choice(_NAMES), b"\r\n--b\r\n")
            )
            whole[at : at + rng.randint(0, 2)] = piece
        yield Attack("forms fuzzed", bytes(whole), SPEECH, ("Content-Type: multipart/form-data; boundary=b",))
