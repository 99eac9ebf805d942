"""
Bytes and headers without I/O: what dmap reads of a request and of a stream, and what it changes.

`routes` says what may be called, `body` and `form` look into a request, `headers` decides which header
lines cross, `stream` tells a whole stream from a broken one.
"""
