"""The parts of a model card: what is generated, between two marks, and what a person wrote above, below and into it.

The last mark holds checksums of what was generated: of the text between the marks, and of each key of the metadata. So
a later run can tell what a person has changed, renew the rest, and lose nothing.
"""

import hashlib
import json
import logging
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hf_minibert.files import CARD, GENERATED_CARD, is_plain_file, replaced_file, write_text

logger = logging.getLogger(__name__)

_BEGIN = "<!-- hf_minibert: generated from here to the mark at the end; what you write above or below stays -->"
_END = re.compile(r"<!-- hf_minibert: generated up to here \(text ([0-9a-f]{64}); metadata ([\w.=\- ]*)\) -->")
_METADATA = re.compile(r"\A\ufeff?\s*---[ \t]*\n(.*?\n)?---[ \t]*(?:\n|\Z)", re.DOTALL)  # as the Hub finds it
# Cards of earlier versions, in which nothing could be edited without being kept from then on.
_OLD_STAMP = re.compile(r"\n<!-- hf_minibert card ([0-9a-f]{64}): .*-->\n\Z")


@dataclass(frozen=True)
class OwnWords:
    """What a person wrote into a generated card."""

    above: str
    below: str
    changed: dict[str, Any]
    """Keys of the metadata that the person added, or gave another value."""
    removed: frozenset[str]
    """Keys of the metadata that the person took out."""

    def __bool__(self) -> bool:
        return bool(self.above or self.below or self.changed or self.removed)


def assembled(metadata: str, body: str) -> str:
    """A generated card from its metadata, as YAML, and its text."""
    keys = " ".join(f"{key}={_key_digest(value)}" for key, value in _mapping(metadata).items())
    end = f"<!-- hf_minibert: generated up to here (text {_digest(body)}; metadata {keys}) -->"
    return f"---\n{metadata.strip()}\n---\n\n{_BEGIN}\n\n{body.strip()}\n\n{end}\n"


def own_words(text: str) -> OwnWords | None:
    """What a person wrote into a card; None if that cannot be told apart.

    So it is if there are no marks, if the text between them was changed, or if the metadata cannot be read or have
    comments, which would be lost.
    """
    text = text.replace("\r\n", "\n")
    found, end, metadata = _METADATA.match(text), _END.search(text), metadata_of(text)
    begin = text.find(_BEGIN)
    if metadata is None or end is None or begin < 0 or text.count(_BEGIN) > 1 or len(_END.findall(text)) > 1:
        return None
    if _digest(text[begin + len(_BEGIN) : end.start()]) != end[1]:
        return None
    generated = dict(entry.split("=") for entry in end[2].split())
    return OwnWords(
        above=text[found.end() if found else 0 : begin].strip(),
        below=text[end.end() :].strip(),
        changed={key: value for key, value in metadata.items() if generated.get(key) != _key_digest(value)},
        removed=frozenset(generated.keys() - metadata.keys()),
    )


def metadata_of(card: str) -> dict[str, Any] | None:
    """The metadata of a card; None if they cannot be read, or have comments, which would be lost."""
    card = card.replace("\r\n", "\n")
    found = _METADATA.match(card)
    if found is None:
        return None if card.lstrip("\ufeff\n ").startswith("---") else {}
    try:
        return None if _has_comments(found[1] or "") else _mapping(found[1] or "")
    except (yaml.YAMLError, ValueError):
        return None


def stated_metadata(card: str) -> dict[str, Any]:
    """The metadata of a card, to read and not to write again; empty if they cannot be read."""
    found = _METADATA.match(card.replace("\r\n", "\n"))
    try:
        return _mapping((found[1] if found else "") or "")
    except (yaml.YAMLError, ValueError):
        return {}


def is_generated(text: str) -> bool:
    """Whether a card is just as it was generated, so that it may be replaced as a whole."""
    if (words := own_words(text)) is not None:
        return not words
    stamp = _OLD_STAMP.search(text)
    return stamp is not None and hashlib.sha256(text[: stamp.start()].encode()).hexdigest() == stamp[1]


def merged(earlier: str, new: str, *, overriding: Collection[str] = ()) -> str | None:
    """A new generated card with what a person wrote into an earlier one.

    Args:
        earlier: the earlier card, from anywhere.
        new: the new card, just as it was generated.
        overriding: keys of the metadata whose new value counts in any case.

    Returns:
        The card; None if the person changed what is between the marks, so that it cannot be told apart.
    """
    if is_generated(earlier):
        return new
    words = own_words(earlier)
    return None if words is None else _with_words(new, words, overriding)


def with_metadata_of(earlier: str, new: str, *, overriding: Collection[str] = ()) -> str | None:
    """A new card with the metadata of one that has nothing else, as the Hub's website makes it, or is blank.

    Arguments as of `merged`.

    Returns:
        The card; None if the earlier one has text, or metadata that cannot be read or have comments.
    """
    earlier = earlier.replace("\r\n", "\n")
    found, stated = _METADATA.match(earlier), metadata_of(earlier)
    if stated is None or earlier[found.end() if found else 0 :].strip():
        return None
    return _with_words(new, OwnWords("", "", stated, frozenset()), overriding)


def _with_words(new: str, words: OwnWords, overriding: Collection[str]) -> str:
    """A new generated card with what a person wrote, but for keys of the metadata whose new value counts."""
    found = _METADATA.match(new)
    assert found is not None
    changed = {key: value for key, value in words.changed.items() if key not in overriding}
    removed = words.removed - set(overriding)
    metadata = found[0]
    if changed or removed:
        kept = {key: value for key, value in _mapping(found[1]).items() if key not in removed} | changed
        metadata = f"---\n{yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)}---\n"
    above = f"\n{words.above}\n" if words.above else ""
    below = f"\n{words.below}\n" if words.below else ""
    return f"{metadata}{above}{new[found.end() :]}{below}"


def _has_comments(metadata: str) -> bool:
    """Whether a `#` stands between the tokens of YAML, or behind the sign that a block of text begins with."""
    end = 0
    for token in yaml.scan(metadata):
        start = token.start_mark.index
        is_block = isinstance(token, yaml.ScalarToken) and token.style in ("|", ">")
        if "#" in metadata[end:start] or (is_block and "#" in metadata[start:].partition("\n")[0]):
            return True
        end = token.end_mark.index
    return False


def renew_card(folder: Path, text: str) -> Path:
    """Put a new generated card into a folder; what a person wrote into the one that is there stays.

    Where the person changed what was generated, the new card becomes ``README.generated.md`` beside it. A card with
    words of a person is on no list of files that may be deleted.

    Returns:
        The file that was written.
    """
    path = folder / CARD
    if not path.exists() and not path.is_symlink():
        write_text(path, text)
        return path
    earlier = path.read_text(encoding="utf-8", errors="replace") if is_plain_file(path) else ""
    renewed = merged(earlier, text)
    if renewed is None:
        logger.warning("%s was edited by hand and is kept; the new card is %s", path, folder / GENERATED_CARD)
        path, renewed = folder / GENERATED_CARD, text
    with replaced_file(path, is_listed=renewed == text) as unfinished:
        unfinished.write_text(renewed, encoding="utf-8", newline="\n")
    return path


def _mapping(text: str) -> dict[str, Any]:
    content = yaml.safe_load(text) or {}
    if not isinstance(content, dict):
        raise ValueError("no mapping")
    return {str(key): value for key, value in content.items()}


def _digest(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()


def _key_digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]
