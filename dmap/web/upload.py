"""A request's body, read whole and within bounds: of size, of time, and of all bodies together."""

import asyncio

from dmap.aiohttp_insides import BODY_ERRORS, ask_for_body, read_some
from dmap.errors import BadRequest, UploadTimeout
from dmap.web.visit import Visit, Visits


async def read(visits: Visits, visit: Visit) -> bytes:
    """
    Read the body of *visit* whole; it counts as held until `visits.free`.

    Raises `BodyTooLarge`, `UploadTimeout`, `Overloaded`, or `BadRequest` when it does not arrive whole.
    """
    content, body_s = visit.request.content, visits.server.body_s
    try:
        if content.is_eof():  # most bodies come in one piece with their head
            body = content.read_nowait()
            visits.claim(visit, len(body))
            return body
        async with asyncio.timeout(body_s):
            return await _arriving(visits, visit)
    except TimeoutError as exc:
        raise UploadTimeout(f"the body did not arrive within {body_s:g} s (server.body_s)") from exc
    except BODY_ERRORS as exc:
        raise BadRequest(f"the body did not arrive whole: {exc}") from exc


async def _arriving(visits: Visits, visit: Visit) -> bytes:
    """Read a body that is still on its way.  Only what has arrived counts as held."""
    request = visit.request
    visits.check(visit, request.content_length or 0)
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version >= (1, 1):
        await ask_for_body(request)
    chunks = []
    while chunk := await read_some(request.content):
        visits.claim(visit, len(chunk))
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
