"""
Find and replace the model in a multipart form, as uploads of audio and images carry it (RFC 7578).

Only as much of the format as that takes; the form itself goes on as the same bytes.
"""

import re
from email.message import Message
from email.parser import BytesHeaderParser

from dmap.errors import BadRequest

__all__ = ["peek_form", "put_model"]

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_MAX_PARTS = 64


def peek_form(body: bytes, content_type: str) -> tuple[str | None, bool]:
    """
    Return the form's `model` (None when it names none) and whether it asks for a stream.

    Raises `BadRequest` when the form cannot be read, or names either field twice.
    """
    values = {name: body[start:end] for name, start, end in _fields(body, content_type)}
    try:
        model = values["model"].decode().strip() if "model" in values else None
    except UnicodeDecodeError as exc:
        raise BadRequest("'model' is not UTF-8", param="model") from exc
    return model or None, values.get("stream", b"").strip().lower() in (b"true", b"1")


def put_model(body: bytes, content_type: str, model: str) -> bytes:
    """Return *body* with the value of its `model` replaced, or with the field added in front."""
    for name, start, end in _fields(body, content_type):
        if name == "model":
            return body[:start] + model.encode() + body[end:]
    field = b'--%b\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n'
    return field % (_boundary(content_type), model.encode()) + body


def _fields(body: bytes, content_type: str) -> list[tuple[str, int, int]]:
    """List `model` and `stream` as (name, start, end) of their values; other parts are passed over."""
    delimiter = b"--" + _boundary(content_type)
    found = []
    for start, end in _parts(body, delimiter):
        split = body.find(b"\r\n\r\n", start, end)
        if split < 0:
            raise BadRequest("a part of the multipart form has no headers")
        name = _name(BytesHeaderParser().parsebytes(body[start:split]))
        if name.lower() in ("model", "stream"):
            found.append((name, split + 4, end))
    names = [name for name, _, _ in found]
    for name in names:
        if name != name.lower() or names.count(name) > 1:
            raise BadRequest(f"give the field {name.lower()!r} once, in lower case", param=name.lower())
    return found


def _parts(body: bytes, delimiter: bytes) -> list[tuple[int, int]]:
    """List the (start, end) of each part, headers included, delimiters and line ends not."""
    marks = []
    at = 0 if body.startswith(delimiter) else body.find(b"\r\n" + delimiter)
    while at >= 0:
        marks.append(at)
        if len(marks) > _MAX_PARTS:
            raise BadRequest(f"the multipart form has more than {_MAX_PARTS} parts")
        at = body.find(b"\r\n" + delimiter, at + 1)
    if len(marks) < 2:
        raise BadRequest("the multipart form is cut short, or its boundary is not the one announced")
    starts = [body.find(b"\r\n", mark + len(delimiter)) + 2 for mark in marks[:-1]]
    return list(zip(starts, marks[1:], strict=True))


def _name(headers: Message) -> str:
    name = headers.get_param("name", "", header="content-disposition")
    return name if isinstance(name, str) else ""


def _boundary(content_type: str) -> bytes:
    header = Message()
    header["content-type"] = content_type
    boundary = header.get_boundary() if header.get_content_type() == "multipart/form-data" else None
    if not boundary or not _BOUNDARY.fullmatch(boundary):
        raise BadRequest("this route takes multipart/form-data with a boundary")
    return boundary.encode()
