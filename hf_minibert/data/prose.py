"""From the markup of documentation strings (reStructuredText, Markdown, NumPy's and Google's styles) to prose."""

import inspect
import re
from collections.abc import Iterable, Iterator

_LITERAL_DIRECTIVE = re.compile(
    r"\.\. +(code|code-block|sourcecode|math|plot|doctest|testcode|testoutput|testsetup|ipython|literalinclude|image|"
    r"figure|parsed-literal|csv-table|list-table|table|toctree|autosummary|highlight|currentmodule|index|productionlist|"
    r"versionadded|include|graphviz|raw|automodule|autoclass|autofunction|module|jupyter-execute|tabularcolumns|rubric)::"
)
_TARGET = re.compile(r"\.\. +(\[|_)|__ ")
_DIRECTIVE = re.compile(r"\.\. +[\w-]+:: *(?:v?\d[\w.]*)?\s*")
_UNDERLINE = re.compile(r"([=\-~^*+#\"'`_.])\1{2,}$")
_TABLE = re.compile(r"\+[-=+]+|\|.*\||[=\-]{2,}( +[=\-]{2,})+$|[╒│├└┌┼╞╘━─]")
_SIGNATURE = re.compile(
    r"[\w.*]+\(.*\)( *-> *.+)?$|((async )?def|class) \w+ *[(:]|from [\w.]+ import |import [\w.]+( as \w+)?$|#"
)
_FIELD_TYPE = re.compile(r":(type|rtype|vartype)\b.*")
_FIELD = re.compile(
    r":(?:param|parameter|arg|argument|keyword|kwarg|ivar|cvar|var|raises|raise|throws)\s+(?:[^:]*\s)?([\w*.]+)\s*:\s*"
)
_FIELD_RETURN = re.compile(r":returns?:\s*")
_NUMPY_ENTRY = re.compile(r"(\*{0,2}\w[\w.]*(?:, *\*{0,2}\w[\w.]*){0,5}) +: +(.+)$")
_GOOGLE_ENTRY = re.compile(r"(?:[-*] )?[`*]*(\w[\w.]*)[`*]* ?\([^()]*(?:\([^()]*\)[^()]*)*\) ?[:–-]+ *(.*)$")
_ITEM = re.compile(r"([-*+•]|\(?\d{1,2}[.)]|\(?[a-z]\)|[a-z*]\w*:)\s+")
_QUOTE = re.compile(r"^(?:>\s*)+(\[!\w+\])?\s*")
_ROLE = re.compile(r":[\w:+-]+:`[~!]?([^`<]+?)(?: *<[^`>]*>)?`")
_LINK = re.compile(r"`([^`<]+?) *<[^`>]*>`__?|\[([^\]]+)\]\([^)]*\)|\[([`~.\w]+)\](?=[\s.,;:)]|$)")
_CITATION = re.compile(r" ?\[(?:\d+|[A-Z][\w+-]*)\]_")
_PLACEHOLDER = re.compile(r"\{\w+\}|%\(\w+\)s|<[a-z/][^<>]{0,60}>")
HEADING = re.compile(r"[A-Z][A-Za-z ]{2,24}:?$")
WORD = re.compile(r"[a-z]+(?:['’-][a-z]+)*", re.IGNORECASE)
_PLAIN_TOKEN = re.compile(r"[\"'(`*]*[A-Za-z]+(?:['’-][A-Za-z]+)*[\"')`*]*[.,;:!?]*[\"')`*]*$")


def _without_code(lines: Iterable[str]) -> Iterator[str]:
    """Drop doctests, fences, literal blocks, tables and underlines; a dropped block leaves a blank line."""
    skipped_indent: int | None = None
    fence, doctest = "", False
    for line in lines:
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        if fence:
            if stripped.startswith(fence):
                fence = ""
            continue
        if stripped.startswith(("```", "~~~")) and not stripped.endswith("```", 3):
            fence = stripped[:3]
            yield ""
            continue
        if not stripped:
            doctest = False
            yield ""
            continue
        if skipped_indent is not None and indent > skipped_indent:
            continue
        skipped_indent = None
        if stripped.startswith((">>>", "In [")):
            doctest = True
        if doctest:
            continue
        if _LITERAL_DIRECTIVE.match(stripped) or _TARGET.match(stripped):
            skipped_indent = indent
            yield ""
            continue
        if stripped.endswith("::"):
            is_literal = not _DIRECTIVE.match(stripped)
            skipped_indent = indent if is_literal else None
            yield line.rstrip()[:-1] if is_literal and stripped != "::" else ""
            continue
        if _UNDERLINE.match(stripped) or _TABLE.match(stripped) or _SIGNATURE.match(stripped):
            yield ""
            continue
        yield line


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Join wrapped lines; an entry of a parameter list becomes ``name: description`` without its type."""
    words: list[str] = []
    previous_indent = 0

    def finished() -> Iterator[str]:
        if words:
            yield " ".join(words)
            words.clear()

    for line in lines:
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if not text or _FIELD_TYPE.match(text):
            yield from finished()
            continue
        text = _QUOTE.sub("", _DIRECTIVE.sub("", text))
        text = _FIELD_RETURN.sub("Returns: ", _FIELD.sub(r"\1: ", text))
        named = _NUMPY_ENTRY.match(text) or _GOOGLE_ENTRY.match(text)
        starts = named or line.strip() != text or _ITEM.match(text) or indent != previous_indent
        if starts and not (words and indent > previous_indent and not named and _continues(words)):
            yield from finished()
        if named and named.re is _GOOGLE_ENTRY:
            text = f"{named[1]}: {named[2]}".strip()
        elif named:
            text = f"{named[1]}: {named[2] if _is_description(named[2]) else ''}".strip()
        words.append(text)
        previous_indent = indent
    yield from finished()


def _is_description(text: str) -> bool:
    """Whether what follows a name is a description, as under "See Also", and not its type, as under "Parameters"."""
    return text.endswith(".") or (text[0].isupper() and len(text.split()) > 3 and _is_prose(text))


def _continues(words: list[str]) -> bool:
    """Whether an indented line goes on with the paragraph: after an item, or in a sentence, but not after a heading."""
    is_heading = len(words) == 1 and HEADING.match(words[0])
    return not is_heading and bool(_ITEM.match(words[0]) or not words[-1].endswith((".", "!", "?")))


def _is_prose(text: str) -> bool:
    """Whether most tokens are plain words and most characters letters."""
    tokens = text.split()
    letters = sum(map(str.isalpha, text))
    plain = sum(1 for token in tokens if _PLAIN_TOKEN.match(token))
    return len(tokens) >= 3 and letters >= 0.75 * sum(map(len, tokens)) and plain >= 0.7 * len(tokens)


def clean_docstring(docstring: str) -> list[str]:
    """The paragraphs of prose in a documentation string, each one line, without its code, tables and markup."""
    kept: list[str] = []
    for paragraph in _paragraphs(_without_code(inspect.cleandoc(docstring).splitlines())):
        text = _LINK.sub(lambda match: match[1] or match[2] or match[3], _ROLE.sub(r"\1", paragraph))
        text = _CITATION.sub("", text).replace("``", "`").replace("**", "")
        text = " ".join(_PLACEHOLDER.sub("", text).split())
        if HEADING.match(text) or _is_prose(text):
            kept.append(text)
    return without_empty_headings(kept)


def without_empty_headings(paragraphs: list[str]) -> list[str]:
    """Paragraphs without the headings that have no text below them."""
    kept: list[str] = []
    for paragraph in [*paragraphs, "End"]:
        if HEADING.match(paragraph) and kept and HEADING.match(kept[-1]):
            kept.pop()
        kept.append(paragraph)
    return kept[:-1]
