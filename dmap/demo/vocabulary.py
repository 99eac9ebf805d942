"""The words of the tiny models, their tokenizer and their chat template: a part of `models.py`."""

from pathlib import Path

from gguf import GGUFWriter, TokenType

SEA = """anchor beacon captain coral current deck ebb ferry fishermen foam gale gulls harbour hull island
jetty keel lantern lighthouse lobster mast mooring net oar pilot quay reef rope rudder sail salt shoal shore
squall storm surf swell tide trawler voyage wave whale wharf"""

KITCHEN = """apron bake basil boil bread broth butter carrot chop cinnamon cook crust dough flour fry garlic
ginger grate honey kettle knead ladle lemon mustard nutmeg olive onion oven pan parsley pasta peel pepper
plate recipe roast sauce simmer skillet soup spoon stew stir sugar taste vinegar whisk yeast"""

EVERYDAY = """a and are before every from in is near of on some that the then to under was we with"""

CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")

END = "<|im_end|>"
CONTROL = ("<|endoftext|>", "<|im_start|>", END)
TOOL_CALL = ("<tool_call>", "</tool_call>")
"""
One token each, so that a `logit_bias` on the first makes a model call a tool.

No line feed belongs to the first: llama.cpp b11549 refuses a request with tools (500, "Grammar trigger
word should be marked as preserved token") where the mark that starts a call is one token ending in one.
"""


class Vocabulary:
    """
    Byte-level BPE in which every word of the theme is one token.

    It is not trained: each word is spelled from the left, one merge per letter (`Ġt`, `Ġti`, `Ġtid`,
    `Ġtide`).  Whatever is no word of the theme falls apart into such beginnings and single bytes.
    """

    def __init__(self, theme: str) -> None:
        self._words = ["Ġ" + word for word in (theme + " " + EVERYDAY).split()]
        tokens = dict.fromkeys(_byte_letters())
        self._merges: dict[str, None] = {}
        for word in self._words:
            for end in range(1, len(word)):
                self._merges[f"{word[:end]} {word[end]}"] = None
                tokens[word[: end + 1]] = None
        self._plain = len(tokens)
        self.tokens = [*tokens, *CONTROL, *TOOL_CALL]

    def biases(self, never: float) -> list[float]:
        """Return each token's bias: none for words, *never* for all others."""
        return [0.0 if token in self._words else never for token in self.tokens]

    def add_to(self, writer: GGUFWriter) -> None:
        """Write the tokenizer and the chat template into a GGUF file's header."""
        types = [TokenType.NORMAL] * self._plain
        types += [TokenType.CONTROL] * len(CONTROL) + [TokenType.USER_DEFINED] * len(TOOL_CALL)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(self.tokens)
        writer.add_token_types(types)
        writer.add_token_merges(list(self._merges))
        writer.add_bos_token_id(self._plain)
        writer.add_pad_token_id(self._plain)
        writer.add_eos_token_id(self._plain + CONTROL.index(END))
        writer.add_add_bos_token(False)
        writer.add_chat_template(CHAT_TEMPLATE)


def _byte_letters() -> list[str]:
    """Return GPT-2's letter for each byte, in its order: printable ones stand for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(0x100 + index) for index in range(others)]
