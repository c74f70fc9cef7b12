"""A tokenizer that reads every text in JavaScript as it does in Python."""

import functools
import json
import re
from pathlib import Path

from tokenizers import Regex, Tokenizer, pre_tokenizers

from hf_minibert.errors import UserError
from hf_minibert.files import write_text

ALL = "".join(chr(code) for code in range(1, 0x110000) if not 0xD800 <= code < 0xE000)
PROBES = (
    "",
    "[MASK] naïve \u00a0\u0085 [MASK][MASK]",
    "\ufeff[MASK] \n[MASK] ",
    "a  b\u00a0\u0085c\ufeff #1½ Ⅷ \u0870 𑼂 漢字 🙂 can't 'S",
    "x" * 100,
)


def spell_out_classes(folder: Path) -> None:
    r"""Write the letters and numbers that a `tokenizer.json` means by `\p{L}` and `\p{N}` into it.

    Every JavaScript engine has a Unicode of its own, which knows letters that `tokenizers` does not know, or the other
    way round; the text would be cut elsewhere. Nor is white space the same to all of them, so an expression takes the
    place of `lstrip`, by which ``[MASK]`` takes the space before it.

    Raises:
        UserError: what was written would be read otherwise in Python.
    """
    path = folder / "tokenizer.json"
    parts = json.loads(path.read_text(encoding="utf-8"))
    before = Tokenizer.from_file(str(path))
    steps = parts["pre_tokenizer"] or {}
    for step in steps.get("pretokenizers", [steps]):
        if step.get("type") == "Split" and "Regex" in step["pattern"]:
            step["pattern"]["Regex"] = spelt_out(step["pattern"]["Regex"])
    for token in parts["added_tokens"]:
        if token["lstrip"] and parts["normalizer"] is None:
            token |= {"lstrip": False, "normalized": True}
            space = {"Regex": rf"\s+(?={re.escape(token['content'])})"}
            parts["normalizer"] = {"type": "Replace", "pattern": space, "content": ""}
    write_text(path, json.dumps(parts, ensure_ascii=False, indent=1) + "\n")
    after = Tokenizer.from_file(str(path))
    if any(before.encode(text).ids != after.encode(text).ids for text in (*PROBES, ALL[:0x3000])):
        raise UserError(
            "the tokenizer reads otherwise once its regular expression names its letters, which should not be; "
            "nothing was written"
        )


def spelt_out(expression: str) -> str:
    r"""A regular expression with the ranges of `\p{L}` and `\p{N}` in their place, within brackets and outside."""
    spelt, place, in_brackets = [], 0, False
    while place < len(expression):
        piece = expression[place : place + (2 if expression[place] == "\\" else 1)]
        if piece == r"\p" and (name := expression[place : place + 5]) in (r"\p{L}", r"\p{N}"):
            ranges = members(name)
            spelt.append(ranges if in_brackets else f"[{ranges}]")
            place += len(name)
            continue
        in_brackets = (in_brackets or piece == "[") and piece != "]"
        spelt.append(piece)
        place += len(piece)
    return "".join(spelt)


@functools.cache
def members(expression: str) -> str:
    """All characters that `tokenizers` matches with an expression, as the ranges of a class."""
    split = pre_tokenizers.Split(Regex(f"{expression}+"), behavior="removed")
    ranges, end = [], 0
    for _, (begin, stop) in [*split.pre_tokenize_str(ALL), ("", (len(ALL), len(ALL)))]:
        if begin > end:
            first, last = ALL[end], ALL[begin - 1]
            ranges.append(first if first == last else f"{first}-{last}")
        end = stop
    return "".join(ranges)
