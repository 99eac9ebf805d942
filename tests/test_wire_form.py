"""
A form's model is read as any parser would read it, and replaced in place.

Where parsers differ, dmap refuses: what it takes for the model would not be what a backend takes.
"""

import email

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from dmap.errors import BadRequest
from dmap.wire.form import content_type_of, peek_form

KIND = "multipart/form-data; boundary=bound"
END = b"--bound--\r\n"


def part(name: str, value: bytes, more: str = "", headers: str = "") -> bytes:
    """Write one part as most clients do."""
    head = f'--bound\r\nContent-Disposition: form-data; name="{name}"{more}\r\n{headers}\r\n'
    return head.encode() + value + b"\r\n"


def disposed(disposition: str) -> bytes:
    """Write a whole form of one part with the value `m` and the given header lines."""
    return f"--bound\r\n{disposition}\r\n\r\nm\r\n--bound--\r\n".encode("latin-1")


SOUND = b"RIFF\x00\xff\r\n--boun\r\n\r\n-- \n"
UPLOAD = part("file", SOUND, '; filename="a b;c.wav"', "Content-Type: audio/wav\r\n")


@pytest.mark.parametrize(
    ("body", "model", "stream"),
    [
        (part("model", b"m") + UPLOAD + END, "m", False),
        (UPLOAD + part("model", b"m") + part("stream", b"true") + END, "m", True),
        (part("stream", b"1") + part("model", b"m") + END, "m", True),
        (part("stream", b"false") + part("model", b"m") + END, "m", False),
        (part("model", "modèle/x:Q4".encode()) + END, "modèle/x:Q4", False),
        (part("model", b" m ") + END, " m ", False),
        (part("model", b"m", headers="Content-Type: text/plain; charset=utf-8\r\n") + END, "m", False),
        (part("model", b"m", headers="Content-Transfer-Encoding: 8bit\r\n") + END, "m", False),
        (part("model", b"m", headers="Content-Type: text/plain;charset=UTF-8\r\n") + END, "m", False),
        (part("file", SOUND, '; filename="Ü 日本.wav"') + part("model", b"m") + END, "m", False),
        (part("file", SOUND, "; filename=a.wav") + part("model", b"m") + END, "m", False),
        (part("model", b"") + END, None, False),
        (part("model", b" \t") + END, None, False),
        (part("xmodel", b"m") + part("x[model]", b"m") + END, None, False),
        (part("timestamp_granularities[]", b"word") * 2 + part("model", b"m") + END, "m", False),
        (UPLOAD + END, None, False),
        (disposed("Content-Disposition: form-data; name=model"), "m", False),
        (disposed("content-disposition:form-data;name=model"), "m", False),
        (disposed('CONTENT-DISPOSITION: Form-Data; Name="model"'), "m", False),
        (b"\r\n" + part("model", b"m") + END, "m", False),
        (part("model", b"m") + b"--bound--", "m", False),
        (part("model", b"m") + b"--bound--\r\n\r\n", "m", False),
    ],
)
def test_the_model_is_read(body, model, stream):
    """`model` and `stream` are read as they stand, wherever in the form; an empty model is none."""
    form = peek_form(body, KIND)

    assert (form.model, form.stream) == (model, stream)


@pytest.mark.parametrize(
    "kind",
    [
        'multipart/form-data; boundary="bound"',
        "Multipart/Form-Data;BOUNDARY=bound",
        "multipart/form-data ; boundary=bound ; charset=utf-8",
        'multipart/form-data; charset="UTF-8"; boundary=bound;',
    ],
)
def test_the_boundary_is_read(kind):
    """The boundary stands in the content type, quoted or not, beside a charset at most."""
    assert peek_form(part("model", b"m") + END, kind).model == "m"


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "multipart/form-data",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=bound; boundary=other",
        "multipart/form-data; boundary=other; boundary=bound",
        "multipart/form-data; boundary*=utf-8''bound",
        "multipart/form-data; boundary*0=bou; boundary*1=nd",
        "multipart/form-data; boundary=other; boundary*=utf-8''bound",
        'multipart/form-data; x="; boundary=other"; boundary=bound',
        "multipart/form-data, multipart/form-data; boundary=bound",
        "multipart/mixed; boundary=bound",
        'multipart/form-data; boundary="bo\\und"',
        "multipart/form-data; boundary=bound x",
        "multipart/form-data; boundary=" + "b" * 71,
    ],
)
def test_a_boundary_that_could_be_read_otherwise_is_refused(kind):
    """A content type with no boundary, two, or one in an unusual spelling is refused."""
    with pytest.raises(BadRequest, match="boundary"):
        peek_form(part("model", b"m") + END, kind)


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        ("Multipart/Form-Data;BOUNDARY=bound", "multipart/form-data; boundary=bound"),
        ("multipart/form-data; boundary=bound; charset=punycode", "multipart/form-data; boundary=bound"),
        ('multipart/form-data; charset=utf-7; boundary="bo/und"', 'multipart/form-data; boundary="bo/und"'),
    ],
)
def test_the_content_type_is_written_anew(kind, written):
    """Of a form's content type its boundary goes on and nothing else: Starlette obeys the charset."""
    assert content_type_of(kind) == written


@pytest.mark.parametrize(
    "body",
    [
        part("model", b"m") + part("model", b"n") + END,
        part("model", b"m") + part("model", b"m") + END,
        part("model", b"m") + part("Model", b"n") + END,
        part("MODEL", b"m") + END,
        part("model[]", b"m") + END,
        part("model", b"m") + part("model[]", b"n") + END,
        part("model", b"m") + part("model[0]", b"n") + END,
        part("model", b"m") + part("model.x", b"n") + END,
        part("model", b"m") + part("[model]", b"n") + END,
        part("mod_el", b"m") + END,
        part("model", b"m" * 1025) + END,
        part("model", b"m" * 2**20) + END,
        part("model", b"m", '; filename="m.txt"') + END,
        part("model", b"bQ==", headers="Content-Transfer-Encoding: base64\r\n") + END,
        part("model", b"=6D", headers="Content-Transfer-Encoding: Quoted-Printable\r\n") + END,
        part("model", b"\xff") + END,
        part("model", b"m", headers="Content-Type: text/plain; charset=iso-8859-1\r\n") + END,
        part("model", b"m", headers="Content-Type: application/json\r\n") + END,
    ],
)
def test_a_model_that_could_be_read_otherwise_is_refused(body):
    """A model given twice, in another letter case, as a file or encoded is refused by name."""
    with pytest.raises(BadRequest) as refused:
        peek_form(body, KIND)

    assert refused.value.param == "model"


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("url", b"http://h", "image_url"),
        ("url[]", b"http://h", "image_url"),
        ("image_url", b"http://h", "image_url"),
        ("file_url", b"file:x", "image_url"),
        ("image", b"http:x.example", "image_url"),
        ("image[]", b"a.png", "image_url"),
        ("image[0]", b" ht\ntp://h", "image_url"),
        ("mask.url", b"http://h", "image_url"),
        ("keep_alive", b"0", "keep_alive"),
        ("draft_model", b"n", "draft_model"),
        ("context_length", b"9", "context_length"),
        ("integrations[]", b"mcp/x", "integrations"),
        ("models[]", b"n", "models"),
        ("fallbacks", b'["n"]', "fallbacks"),
        ("background", b"true", "background"),
        ("options[num_ctx]", b"9", "options"),
    ],
)
def test_a_form_needs_permits(name, value, field):
    """What JSON needs a permit for, a form needs one for."""
    needs = peek_form(part("model", b"m") + part(name, value) + END, KIND).needs

    assert [need.field for need in needs] == [field]


def test_a_file_may_be_a_link():
    """A link is one even where the part has the name of a file; an image that is a file is bytes."""
    form = peek_form(part("url", b"http://h", '; filename="a"') + END, KIND)

    assert [need.field for need in form.needs] == ["image_url"]


@pytest.mark.parametrize(
    "field",
    [
        part("image", b"iVBORw0KGgo="),
        part("image", b"data:image/png;base64,iVBORw0KGgo="),
        part("image_url", b"data:image/png;base64,iVBORw0KGgo="),
        part("image[]", SOUND, '; filename="a.png"') * 2,
        part("mask", SOUND, "; filename=a.png"),
        part("keep_alive", b""),
        part("background", b"transparent"),
        part("response_format", b"url"),
        part("prompt", b"see http://h"),
        part("timestamp_granularities[]", b"word") * 2,
        UPLOAD,
    ],
)
def test_a_plain_form_needs_none(field):
    """Files, bytes in base64 and what a model is told need no permit."""
    assert peek_form(field + END, KIND).needs == ()


@pytest.mark.parametrize("name", ["Image", "KEEP_ALIVE", "keep-alive", "imageUrl", "draftModel[]"])
def test_a_field_is_spelled_in_one_way(name):
    """Another spelling of a guarded field is refused."""
    with pytest.raises(BadRequest, match="spell the field"):
        peek_form(part("model", b"m") + part(name, b"x") + END, KIND)


def test_a_stream_given_twice_is_refused():
    """`stream` too is given once."""
    with pytest.raises(BadRequest) as refused:
        peek_form(part("stream", b"1") + part("stream", b"0") + END, KIND)

    assert refused.value.param == "stream"


@pytest.mark.parametrize(
    "disposition",
    [
        "Content-Disposition: form-data; name*=utf-8''model",
        'Content-Disposition: form-data; name*0="mo"; name*1="del"',
        "Content-Disposition: form-data; name=\"x\"; name*=utf-8''model",
        'Content-Disposition: form-data; name="x"; name="model"',
        'Content-Disposition: form-data; name="model"; name="x"',
        'Content-Disposition: form-data; filename="a\\"; name="x"; name="model"',
        'Content-Disposition: form-data; name="mo\\del"',
        'Content-Disposition: form-data; name="mod%65l"',
        "Content-Disposition: form-data; name='model'",
        'Content-Disposition: form-data; name="model',
        'Content-Disposition: form-data; name="x"\x1c; name="model"',
        'Content-Disposition: form-data; name="x";\x1cname="model"',
        'Content-Disposition: form-data; name="x";\x1d name="model"',
        'Content-Disposition: form-data; name="x";\x1ename="model"',
        'Content-Disposition: form-data; name="x";\x1fname="model"',
        'Content-Disposition: form-data; name="x";\x0bname="model"',
        'Content-Disposition: form-data; name="x";\x85name="model"',
        'Content-Disposition: form-data; name="x";\xa0name="model"',
        'Content-Disposition: form-data; name="x"; a=b; name="model"',
        'Content-Disposition: form-data; name="x"; a=b',
        'Content-Disposition: form-data; name="x"; filename="a"; filename="b"',
        'Content-Disposition: form-data; name="x"; filename="a\x1c"; name="model"',
        'Content-Disposition: form-data; name="x"; filename="a\x00b"',
        'Content-Disposition: form-data; name="x"; filename="\\"; name=\\"model"',
        "Content-Disposition: form-data; name=\"x\"; filename*=utf-8''a",
        'Content-Disposition: form-data; name="_charset_"',
        'Content-Disposition: form-data; name="x"\r\nX: a\x0bb',
        'Content-Disposition: form-data; name="x"\r\nX: ' + "a" * 20_000,
        'Content-Disposition: form-data; name="model "',
        'Content-Disposition: form-data; name="=?utf-8?q?model?="',
        'Content-Disposition: form-data; name=""',
        "Content-Disposition: form-data",
        'Content-Disposition: attachment; name="model"',
        'Content-Disposition : form-data; name="model"',
        ' Content-Disposition: form-data; name="model"',
        'Content-Disposition: form-data;\r\n name="model"',
        'Content-Disposition: form-data; name="x"\r\nContent-Disposition: form-data; name="model"',
        'Content-Disposition: form-data; name="x"\nContent-Disposition: form-data; name="model"',
        'Content-Disposition: form-data; name="x"\rContent-Disposition: form-data; name="model"',
        "Content-Type: text/plain",
        "nothing",
    ],
)
def test_a_name_that_could_be_read_otherwise_is_refused(disposition):
    """A part has one plain header that begins with one plain name."""
    with pytest.raises(BadRequest):
        peek_form(disposed(disposition), KIND)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        END,
        part("model", b"m"),
        part("model", b"m")[:-2] + END,
        b"--bound\r\n" + END,
        b"--bound\r\n\r\nm\r\n" + END,
        b"--bound" + END,
        (part("model", b"m") + END).replace(b"\r\n", b"\n"),
        (part("model", b"m") + END).replace(b"\r\n", b"\r"),
        b"preamble\r\n" + part("model", b"m") + END,
        b"\n" + part("model", b"m") + END,
        part("model", b"m").replace(b"--bound\r\n", b"--bound  \r\n") + END,
        part("model", b"m").replace(b"--bound\r\n", b"--bound x\r\n") + END,
        part("model", b"m") + END + part("model", b"n") + END,
        part("file", b"x") + END + part("model", b"n") + END,
        part("file", b"x") + b"--bound--x\r\n" + part("model", b"n") + END,
        part("file", b"x") + b"--bound-\r\n" + part("model", b"n") + END,
        part("file", b"x\r\n--boundless\r\nContent-Disposition: form-data; name=model\r\n\r\nn") + END,
        part("file", b'x\n--bound\nContent-Disposition: form-data; name="model"\n\nn') + END,
        part("file", b"x--bound\r\n\r\nn") + END,
        part("model", b"m") + b"--bound\r\n",
        part("x", b"1") * 64 + part("model", b"m") + END,
        b"--bound" * 100_000,
    ],
    ids=lambda body: repr(body[-40:]),
)
def test_a_broken_form_is_refused(body):
    """A boundary stands on a line of its own, ended by CRLF, nowhere else; the last one closes the form."""
    with pytest.raises(BadRequest):
        peek_form(body, KIND)


@pytest.mark.parametrize("given", [b"alias", b"", b" "])
@pytest.mark.parametrize("model", ["real", "a-much-longer/name", "é"])
def test_the_model_is_replaced_in_place(model, given):
    """A backend sees the model's real name; every other byte of the form stays."""
    body = UPLOAD + part("model", given) + part("language", b"en") + END

    changed = peek_form(body, KIND).written(model)

    assert changed == UPLOAD + part("model", model.encode()) + part("language", b"en") + END


@pytest.mark.parametrize("before", [b"", b"\r\n"])
def test_a_missing_model_is_added(before):
    """A form without a model gets one as its first part."""
    changed = peek_form(before + UPLOAD + END, KIND).written("real")

    assert changed == before + part("model", b"real") + UPLOAD + END


_values = st.binary(max_size=12).map(lambda value: value.replace(b"--bound", b""))
_forms = st.lists(st.tuples(st.sampled_from(["file", "model", "Model", "stream", "x"]), _values), max_size=5)


@settings(max_examples=150)
@given(_forms)
def test_any_form_is_read_as_another_parser_reads_it(fields):
    """For any form, dmap refuses or its model is the only one that Python's own parser finds."""
    body = b"".join(part(name, value) for name, value in fields) + END

    try:
        model = peek_form(body, KIND).model
    except BadRequest:
        reject()

    found = [each.decode() for name, each in _by_email(body) if name == "model"]
    assert [model or ""] == (found or [""])


def _by_email(body: bytes) -> list[tuple[str, bytes]]:
    message = email.message_from_bytes(f"Content-Type: {KIND}\r\n\r\n".encode() + body)
    return [
        (inner.get_param("name", header="content-disposition"), inner.get_payload(decode=True))
        for inner in message.walk()
        if not inner.is_multipart()
    ]


def test_so_many_parts():
    """A form has up to 64 parts; to look through more would take long."""
    others = part("stop", b"a")

    assert peek_form(part("model", b"m") + others * 63 + END, KIND).model == "m"
    with pytest.raises(BadRequest, match="more than 64 parts"):
        peek_form(part("model", b"m") + others * 64 + END, KIND)
