"""A document, a corpus of documents, and which of them are held out."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

from hf_minibert.errors import UserError


class Document(NamedTuple):
    """A text and an id that says where it comes from."""

    id: str
    text: str

    @property
    def has_text(self) -> bool:
        """Whether it is more than white space."""
        return bool(self.text) and not self.text.isspace()


class Corpus(ABC):
    """Documents in a fixed order. Every iteration starts anew.

    Attributes:
        name: what the user asked for; `builtin` is the name of nothing else.
        fingerprint: hexadecimal; changes when the documents would. For files it depends on their bytes, not on their
            names, places or times.
        skipped: one line about the files of a folder that are not read; empty if there are none.
        num_bytes: what an iteration reads from disk in all; None if that is not known.
        bytes_read: what the current iteration has read so far (compressed bytes, of a compressed file).
        empty_documents: how many documents without text the current iteration has left out.
    """

    def __init__(self, name: str, fingerprint: str, num_bytes: int | None) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.num_bytes = num_bytes
        self.bytes_read = 0
        self.empty_documents = 0
        self.skipped = ""

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents that have text.

        Raises:
            UserError: the source is damaged, or holds no text at all.
        """
        self.bytes_read = self.empty_documents = 0
        is_empty = True
        for document in self._documents():
            if document.has_text:
                is_empty = False
                yield document
            else:
                self.empty_documents += 1
        if is_empty:
            raise UserError(f"the corpus {self.name} has no documents: every text in it is empty")

    @abstractmethod
    def _documents(self) -> Iterator[Document]: ...


def document_hash(text: str) -> int:
    """A 64-bit number that depends on the text alone: the same on every machine, in every order."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def is_held_out(document_text: str, fraction: float = 0.02) -> bool:
    """Whether a document belongs to the evaluation split, which is this fraction of the documents.

    The text's hash decides, so a document and its copies stay in their split when the corpus grows.
    """
    return document_hash(document_text) < fraction * 2**64
