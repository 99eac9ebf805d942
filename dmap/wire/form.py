"""
Read a multipart form, as uploads of audio and images have it, and replace the model in it (RFC 7578).

This reads no more of the format than it must, and the form goes on as the same bytes.  It goes by positions,
for to cut a long form to pieces would hold the loop.  Many parsers read forms, and they differ in what they
forgive.  So dmap refuses what clients do not send: encoded, continued and unknown parameters, control
characters, folded headers, bare line feeds, and a boundary anywhere but between two parts.  The Content-Type
that goes on is written anew (`content_type_of`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from multidict import CIMultiDict

from dmap.errors import BadRequest
from dmap.wire.body import check_model
from dmap.wire.guards import Need, is_media, needs_of

_MAX_PARTS = 64
_MAX_HEAD_BYTES = 16 * 1024
"""Of one part's headers together; parsers have bounds of 4 to 16 KiB."""
_CHARSET = r'(?: *; *charset="?[\w-]+"?)?'
_KIND = re.compile(
    rf"multipart/form-data{_CHARSET} *; *boundary=(\"?)([\w'()+,./:=?-]{{1,70}})\1{_CHARSET} *;?",
    re.ASCII | re.IGNORECASE,
)
_HEADER = re.compile(r"([A-Za-z0-9-]+):[ \t]*([^\0-\x08\x0a-\x1f\x7f]*)")
_DISPOSITION = re.compile(
    r'form-data *; *name=("?)([\w.\[\]-]+)\1'
    r' *(?:; *filename=(?:"([^"\\\0-\x1f\x7f]*)"|([\w.-]+)))? *;?',
    re.ASCII | re.IGNORECASE,
)
"""The name comes first, so that no parameter before it can be read as its end."""
_TEXT = re.compile(r'text/plain(?: *; *charset="?(?:utf-8|us-ascii)"?)?', re.IGNORECASE)
_SLICE_BYTES = 2**20
_LOOK = 8 * 1024
"""Bytes of a value that are looked at: more than the longest name of a model."""


class _Field(NamedTuple):
    """
    One part of a form.

    *place* is where its value starts and ends in the body, and *value* the beginning of that.  With
    *is_plain* it is text that is not encoded.
    """

    name: str
    place: tuple[int, int]
    value: bytes
    is_file: bool
    is_plain: bool


@dataclass(frozen=True, slots=True)
class Form:
    """
    What a form asks for: *model* is None when it names none.

    *place* has the start and the end of the model's name in *body*; *frame*, with the name in it, goes there.
    *needs* are what it must be permitted.
    """

    model: str | None
    stream: bool
    body: bytes
    needs: tuple[Need, ...]
    place: tuple[int, int]
    frame: bytes = b"%b"

    def written(self, model: str) -> bytes:
        """Return the form for the server that calls its model *model*; the same bytes if they already do."""
        if model == self.model:
            return self.body
        view, (start, end) = memoryview(self.body), self.place
        return b"".join((view[:start], self.frame % model.encode(), view[end:]))


def peek_form(body: bytes, content_type: str) -> Form:
    """
    Read a form.

    Raises `BadRequest` when the form cannot be read, or not in one way only.
    """
    delimiter = b"--" + _boundary(content_type)
    fields = [_field(body, start, end) for start, end in _parts(body, delimiter)]
    needs = tuple(need for field in fields for need in _needs(field))
    own = _own(fields)
    stream = "stream" in own and own["stream"].value.strip().lower() in (b"true", b"1")
    if "model" in own:
        name = own["model"].value.decode(errors="replace")
        if "\ufffd" in name:
            raise BadRequest("'model' is not UTF-8, or too long", param="model")
        return Form(check_model(name), stream, body, needs, own["model"].place)
    at = body.index(delimiter)
    frame = delimiter + b'\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n'
    return Form(None, stream, body, needs, (at, at), frame)


def content_type_of(content_type: str) -> str:
    """
    Write the Content-Type of a form anew, with its boundary and nothing else.

    Starlette decodes the names of fields by its `charset`, which may be one such as punycode.
    """
    boundary = _boundary(content_type).decode()
    written = boundary if re.fullmatch(r"[\w'+.-]+", boundary, re.ASCII) else f'"{boundary}"'
    return f"multipart/form-data; boundary={written}"


def _field(body: bytes, start: int, end: int) -> _Field:
    split = body.find(b"\r\n\r\n", start, min(end, start + _MAX_HEAD_BYTES))
    head = body[start : max(split, 0)].decode("latin-1")
    lines = [_HEADER.fullmatch(line) for line in head.split("\r\n")]
    headers = CIMultiDict([(line[1], line[2]) for line in lines if line])
    named = headers.getall("Content-Disposition", [])
    match = _DISPOSITION.fullmatch(named[0]) if len(named) == 1 else None
    if match is None or None in lines:
        raise BadRequest('give each part of the form one Content-Disposition: form-data; name="..."')
    name, is_file = match[2], match[3] is not None or match[4] is not None
    if name.lower() == "_charset_":
        raise BadRequest("a form is in UTF-8: leave out '_charset_'", param="_charset_")
    encodings = {encoding.lower() for encoding in headers.getall("Content-Transfer-Encoding", [])}
    is_text = all(map(_TEXT.fullmatch, headers.getall("Content-Type", [])))
    is_plain = is_text and not is_file and encodings <= {"7bit", "8bit", "binary"}
    at = split + 4
    return _Field(name, (at, end), body[at : min(end, at + _LOOK)], is_file, is_plain)


def _own(fields: list[_Field]) -> dict[str, _Field]:
    """Return `model` and `stream`; a server may take `model[]` and `model.x` for the model, too."""
    own: dict[str, _Field] = {}
    for field in fields:
        name = stem(field.name)
        if name in ("model", "stream"):
            if field.name != name or name in own or not field.is_plain:
                raise BadRequest(f"give {name!r} once, as text that is no file and not encoded", param=name)
            own[name] = field
    return own


def _needs(field: _Field) -> Iterator[Need]:
    """
    Return what *field* needs.  It cannot be taken out of the form, so no need has a member.

    Raises `BadRequest` for other spellings of names that dmap decides by.
    """
    name = stem(field.name)
    is_bytes = field.is_file and is_media(name)
    text = "" if is_bytes else field.value.decode("latin-1").strip()
    return (need._replace(member="") for need in needs_of({name: text}))


def stem(name: str) -> str:
    """
    Return the *name* of a field without what makes it a member of a list or an object.

    Many servers make one field of `model`, `model[]`, `model[0]` and `model.x`.
    """
    return re.split(r"[.\[]", name, maxsplit=1)[0] or name


def _parts(body: bytes, delimiter: bytes) -> list[tuple[int, int]]:
    """List the (start, end) of each part, headers included, delimiters and line ends not."""
    marks = list(islice(_occurrences(body, delimiter), _MAX_PARTS + 2))
    if len(marks) > _MAX_PARTS + 1:
        raise BadRequest(f"the multipart form has more than {_MAX_PARTS} parts")
    ends = [mark + len(delimiter) for mark in marks]
    is_whole = (
        len(marks) > 1
        and body[: marks[0]] in (b"", b"\r\n")
        and all(body[mark - 2 : mark] == b"\r\n" for mark in marks[1:])
        and all(body[end : end + 2] == b"\r\n" for end in ends[:-1])
        and body[ends[-1] : ends[-1] + 4] in (b"--", b"--\r\n", b"--\n")
    )
    if not is_whole:
        raise BadRequest("the form is cut short, or its boundary stands anywhere but between two parts")
    return [(end + 2, mark - 2) for end, mark in zip(ends[:-1], marks[1:], strict=True)]


def _occurrences(body: bytes, delimiter: bytes) -> Iterator[int]:
    """
    Yield where *delimiter* stands in *body*, also where two overlap.

    A regex is linear in the body, whatever the boundary; `bytes.find` takes seconds for some (70 hyphens with
    an `x` among them).  Each call looks at one slice, because it holds the interpreter's lock.
    """
    pattern = re.compile(re.escape(delimiter))
    for start in range(0, len(body), _SLICE_BYTES):
        end = start + _SLICE_BYTES
        while match := pattern.search(body, start, end + len(delimiter) - 1):
            yield match.start()
            start = match.start() + 1


def _boundary(content_type: str) -> bytes:
    match = _KIND.fullmatch(content_type.strip())
    if match is None:
        raise BadRequest("this route takes multipart/form-data with one boundary")
    return match[2].encode()
