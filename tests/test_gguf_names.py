"""What models are called beside their ids: whatever people send, as long as it means one model only."""

from dmap.backends.gguf.names import is_fit, names_of


def test_a_model_at_the_top_has_its_file_s_name():
    """`NAME.gguf` means the model NAME."""
    assert names_of({"mistral.Q4_K_M": "mistral.Q4_K_M.gguf"}) == {"mistral.Q4_K_M": ("mistral.Q4_K_M.gguf",)}


def test_a_model_in_folders_has_all_shorter_names():
    """A model that is alone in its folder also has the folder's name."""
    names = names_of({"pub/repo/m-q4": "m-q4.gguf"})["pub/repo/m-q4"]

    files = ("pub/repo/m-q4.gguf", "repo/m-q4.gguf", "m-q4.gguf")
    assert names == ("repo/m-q4", "m-q4", *files, "pub/repo", "repo")


def test_a_name_that_two_models_have_is_neither_s():
    """Two files of one name are told apart by their folders; the name alone means none of them."""
    names = names_of({"one/repo/m": "m.gguf", "two/repo/m": "m.gguf"})

    assert names == {
        "one/repo/m": ("one/repo/m.gguf", "one/repo"),
        "two/repo/m": ("two/repo/m.gguf", "two/repo"),
    }


def test_an_id_goes_before_a_shorter_name():
    """What is one model's id is no other's name."""
    names = names_of({"m": "m.gguf", "repo/m": "m.gguf"})

    assert names == {"m": (), "repo/m": ("repo/m.gguf", "repo")}


def test_two_models_share_no_folder_name():
    """Of two quantisations in a folder none is called by the folder."""
    names = names_of({"p/r/m-q4": "m-q4.gguf", "p/r/m-q8": "m-q8.gguf"})

    assert "p/r" not in {*names["p/r/m-q4"], *names["p/r/m-q8"]}


def test_parts_are_known_by_the_first_file():
    """People send the name of the file that they would give to llama.cpp."""
    assert "m-00001-of-00002.gguf" in names_of({"r/m": "m-00001-of-00002.gguf"})["r/m"]


def test_names_are_bounded_and_printable():
    """A name with control characters, bytes that are no text, or no end is nothing to send."""
    assert is_fit("日本語 model (1).Q4")
    assert not any(is_fit(name) for name in ("", "a\nb", "a\x7f", "\udc80", "a\u2028b", "x" * 513))
