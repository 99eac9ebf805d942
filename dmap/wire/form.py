"""
Find and replace the model in a multipart form, as uploads of audio and images carry it (RFC 7578).

This reads no more of the format than it must, and the form goes on as the same bytes.  Many parsers read
forms, and they differ in what they forgive.  So dmap refuses what clients do not send: encoded, continued and
unknown parameters, control characters, folded headers, bare line feeds, and a boundary anywhere but between
two parts.  The Content-Type that goes on is written anew (`content_type_of`).
"""

import re

from dmap.errors import BadRequest

_MAX_PARTS = 64
_MAX_HEAD_BYTES = 16 * 1024
"""Of one part's headers together; parsers have bounds of 4 to 16 KiB."""
_CHARSET = r'(?: *; *charset="?[\w-]+"?)?'
_KIND = re.compile(
    rf"multipart/form-data{_CHARSET} *; *boundary="
    rf"(?:\"([\w'()+,./:=?-]{{1,70}})\"|([\w'+.=-]{{1,70}})){_CHARSET} *;?",
    re.ASCII | re.IGNORECASE,
)
_TOKEN = re.compile(r"[\w'+.-]+", re.ASCII)
_HEADER = re.compile(rb"([A-Za-z0-9-]+):[ \t]*([^\0-\x08\x0a-\x1f\x7f]*)")
_DISPOSITION = re.compile(
    rb'form-data *; *name=(?:"([\w.\[\]-]+)"|([\w.\[\]-]+))'
    rb' *(?:; *filename=(?:"([^"\\\0-\x1f\x7f]*)"|([\w.-]+)))? *;?',
    re.IGNORECASE,
)
"""The name comes first, so that no parameter before it can be read as its end; in bytes `\\w` is ASCII."""
_TEXT = re.compile(rb'text/plain(?: *; *charset="?(?:utf-8|us-ascii)"?)?', re.IGNORECASE)
_OWN = ("model", "stream")
_PLAIN = (b"7bit", b"8bit", b"binary")


def peek_form(body: bytes, content_type: str) -> tuple[str | None, bool]:
    """
    Return the form's `model` (None when it names none) and whether it asks for a stream.

    Raises `BadRequest` when the form cannot be read, or not in one way only.
    """
    values = {name: body[start:end] for name, start, end in _fields(body, content_type)}
    try:
        model = values["model"].decode() if "model" in values else None
    except UnicodeDecodeError as exc:
        raise BadRequest("'model' is not UTF-8", param="model") from exc
    return model or None, values.get("stream", b"").strip().lower() in (b"true", b"1")


def content_type_of(content_type: str) -> str:
    """
    Write the Content-Type of a form anew, with its boundary and nothing else.

    Starlette decodes the names of fields by its `charset`, which may be one such as punycode.
    """
    boundary = _boundary(content_type).decode()
    written = boundary if _TOKEN.fullmatch(boundary) else f'"{boundary}"'
    return f"multipart/form-data; boundary={written}"


def put_model(body: bytes, content_type: str, model: str) -> bytes:
    """Return *body* with the value of its `model` replaced, or with the field added in front."""
    for name, start, end in _fields(body, content_type):
        if name == "model":
            return body[:start] + model.encode() + body[end:]
    delimiter = b"--" + _boundary(content_type)
    field = delimiter + b'\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n' % model.encode()
    at = body.index(delimiter)
    return body[:at] + field + body[at:]


def _fields(body: bytes, content_type: str) -> list[tuple[str, int, int]]:
    """List `model` and `stream` as (name, start, end) of their values; other parts are passed over."""
    found: list[tuple[str, int, int]] = []
    for start, end in _parts(body, b"--" + _boundary(content_type)):
        split = body.find(b"\r\n\r\n", start, min(end, start + _MAX_HEAD_BYTES))
        if split < 0:
            raise BadRequest("a part of the multipart form has no headers, or too many")
        name, is_plain = _name(body[start:split])
        own = name.lower()
        if own in _OWN:
            if name != own or any(own == other for other, _, _ in found):
                raise BadRequest(f"give the field {own!r} once, in lower case", param=own)
            if not is_plain:
                raise BadRequest(f"the field {own!r} must be plain text, not a file or encoded", param=own)
            found.append((own, split + 4, end))
    return found


def _parts(body: bytes, delimiter: bytes) -> list[tuple[int, int]]:
    """List the (start, end) of each part, headers included, delimiters and line ends not."""
    marks = _occurrences(body, delimiter)
    lines = [body[mark + len(delimiter) : mark + len(delimiter) + 4] for mark in marks]
    is_whole = (
        len(marks) > 1
        and body[: marks[0]] in (b"", b"\r\n")
        and all(body[mark - 2 : mark] == b"\r\n" for mark in marks[1:])
        and all(line[:2] == b"\r\n" for line in lines[:-1])
        and lines[-1] in (b"--", b"--\r\n", b"--\n")
    )
    if not is_whole:
        raise BadRequest(
            "the multipart form is cut short, or its boundary is not, or not only, between parts"
        )
    starts = [mark + len(delimiter) + 2 for mark in marks[:-1]]
    return [(start, mark - 2) for start, mark in zip(starts, marks[1:], strict=True)]


def _occurrences(body: bytes, delimiter: bytes) -> list[int]:
    marks = []
    at = body.find(delimiter)
    while at >= 0:
        marks.append(at)
        if len(marks) > _MAX_PARTS + 1:
            raise BadRequest(f"the multipart form has more than {_MAX_PARTS} parts")
        at = body.find(delimiter, at + 1)
    return marks


def _name(head: bytes) -> tuple[str, bool]:
    """Return the name of the part with the headers *head*, and whether its value stands as plain text."""
    headers = [match.groups() for line in head.split(b"\r\n") if (match := _HEADER.fullmatch(line))]
    named = _values(headers, b"content-disposition")
    match = _DISPOSITION.fullmatch(named[0]) if len(named) == 1 else None
    if match is None or len(headers) <= head.count(b"\r\n"):
        raise BadRequest('give each part of the form one Content-Disposition: form-data; name="..."')
    name = (match[1] or match[2]).decode()
    if name.lower() == "_charset_":
        raise BadRequest("a form is in UTF-8: leave out '_charset_'", param="_charset_")
    is_plain = (
        match[3] is match[4] is None
        and all(_TEXT.fullmatch(value) for value in _values(headers, b"content-type"))
        and all(value.lower() in _PLAIN for value in _values(headers, b"content-transfer-encoding"))
    )
    return name, is_plain


def _values(headers: list[tuple[bytes, ...]], wanted: bytes) -> list[bytes]:
    return [value for name, value in headers if name.lower() == wanted]


def _boundary(content_type: str) -> bytes:
    match = _KIND.fullmatch(content_type.strip())
    if match is None:
        raise BadRequest("this route takes multipart/form-data with one boundary")
    return (match[1] or match[2]).encode()
