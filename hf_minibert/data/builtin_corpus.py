"""The corpus that needs no download: documentation of the installed Python packages and of Python itself.

In: the ``.py`` files of the installed distributions and of the standard library, read with ``ast`` and never imported,
and Python's language reference from ``pydoc_data.topics``. Out: a cached ``.jsonl.zst`` file with one cleaned
documentation string a row, in a fixed order. It is for trying things: it differs from one environment to the next.
"""

import ast
import ctypes
import gc
import hashlib
import json
import logging
import multiprocessing
import os
import signal
import sys
import sysconfig
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path, PurePath
from typing import NamedTuple

import datasets
import zstandard
from tqdm import tqdm

from hf_minibert.data.documents import document_hash
from hf_minibert.data.prose import HEADING, WORD, clean_docstring, without_empty_headings
from hf_minibert.files import replaced_file

logger = logging.getLogger("hf_minibert")

EXTRACTION_VERSION = 1
"""Part of the fingerprint. Raise it when the extracted text changes."""

MIN_CHARACTERS = 200
"""Shorter documents say little beyond the name of what they document."""
MAX_PARAGRAPH_REPEATS = 2
"""How often a repeated paragraph is kept, such as a parameter that a hundred models describe alike."""
SHINGLEWORDS = 8
MAX_SEEN_FRACTION = 0.7
"""A document is a copy if a larger share of its shingles (runs of words) was seen before."""

FILES_FOR_SEVERAL_PROCESSES, FILES_AT_ONCE = 1_000, 32
PR_SET_PDEATHSIG = 1
"""Of Linux: a process asks for a signal when the one that made it ends."""

SKIPPED_FOLDERS = frozenset(
    ("test", "tests", "_vendor", "_vendored", "vendor", "vendored", "externals", "site-packages", "dist-packages")
)


class Source(NamedTuple):
    """A Python file, its module's name, and the package that labels its documents."""

    package: str
    module: str
    path: Path


@dataclass
class Statistics:
    """What an extraction read, kept and dropped."""

    num_files: int = 0
    num_documents: int = 0
    num_characters: int = 0
    num_short: int = 0
    num_duplicates: int = 0
    characters_by_package: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        largest = ", ".join(f"{name} {size:,}" for name, size in self.characters_by_package.most_common(8))
        return (
            f"{self.num_files:,} files read; "
            f"{self.num_documents:,} documents with {self.num_characters:,} characters kept; "
            f"{self.num_short:,} dropped as too short or not prose, {self.num_duplicates:,} as duplicates; "
            f"characters in the largest packages: {largest}"
        )


# ---------------------------------------------------------------- where the files are


def _source(relative: PurePath, path: Path, package: str | None) -> Source | None:
    """The source at a path relative to its import root; None if it is not Python or lies in a skipped folder."""
    if relative.suffix != ".py" or relative.is_absolute() or ".." in relative.parts:
        return None
    if not SKIPPED_FOLDERS.isdisjoint(relative.parts[:-1]) or relative.parts[0].startswith("__"):
        return None
    parts = relative.with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Source(package or parts[0].lstrip("_"), module, path)


def sources_below(folder: Path, *, package: str | None = None) -> list[Source]:
    """Every Python file below an import root, sorted; labelled with ``package`` or else its top-level name."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        for name in names:
            path = Path(parent, name)
            source = _source(path.relative_to(folder), path, package)
            if source is not None:
                found.append(source)
    return sorted(found)


def _distributions() -> list[metadata.Distribution]:
    """The installed distributions by name, without this package: its own text changes while it is worked on."""
    by_name: dict[str, metadata.Distribution] = {}
    for distribution in metadata.distributions():
        name = distribution.name.lower().replace("_", "-")
        if name != "hf-minibert":
            by_name.setdefault(name, distribution)
    return [by_name[name] for name in sorted(by_name)]


def installed_sources() -> list[Source]:
    """The files of the installed distributions, then of the standard library, in a fixed order."""
    found = set()
    for distribution in _distributions():
        for file in distribution.files or ():
            source = _source(file, Path(str(distribution.locate_file(file))), None)
            if source is not None:
                found.add(source)
    return sorted(found) + sources_below(Path(sysconfig.get_path("stdlib")), package="python")


def builtin_fingerprint() -> str:
    """A hash that changes with the installed versions, with Python's, and with the way of extraction."""
    parts = [f"{distribution.name}=={distribution.version}" for distribution in _distributions()]
    parts += [sys.version, f"extraction {EXTRACTION_VERSION}"]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


# ---------------------------------------------------------------- from a file to its documentation strings


def docstrings(code: bytes) -> Iterator[tuple[str, str]]:
    """The qualified name ("" for the module) and documentation string of everything in a file that has one.

    Also the strings that C extensions are documented with: ``add_docstr(torch.abs, "...")``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the code of others
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # templates and deliberately broken examples
        return
    yield from _docstrings(tree, "")


def _docstrings(node: ast.AST, qualname: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node, clean=False)
        if text is not None:
            yield qualname, text
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child, f"{qualname}.{child.name}".lstrip("."))
        elif isinstance(child, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _docstrings(child, qualname)
        elif (
            isinstance(child, ast.Expr) and isinstance(child.value, ast.Call) and "doc" in ast.unparse(child.value.func)
        ):
            yield from _documented_by_call(child.value)


def _documented_by_call(call: ast.Call) -> Iterator[tuple[str, str]]:
    strings = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    text = max(strings, key=len, default="")
    if len(text) >= MIN_CHARACTERS:
        names = [ast.unparse(argument) for argument in call.args if isinstance(argument, ast.Attribute | ast.Name)]
        names += [string for string in strings if string.replace(".", "").isidentifier()]
        yield ".".join(names[:2]) or f"line {call.lineno}", text


# ---------------------------------------------------------------- duplicates


class DuplicateFilter:
    """Recognises, in one pass, paragraphs that keep coming back and documents that mostly repeat earlier ones."""

    def __init__(self) -> None:
        self._paragraphs: Counter[int] = Counter()
        self._shingles: set[int] = set()

    def new_paragraphs(self, paragraphs: list[str]) -> list[str]:
        """The paragraphs that were not seen too often already; headings may repeat."""
        kept = []
        for paragraph in paragraphs:
            if HEADING.match(paragraph) is None:
                key = document_hash(paragraph.encode(errors="replace").decode())  # a string of code may be no text
                self._paragraphs[key] += 1
                if self._paragraphs[key] > MAX_PARAGRAPH_REPEATS:
                    continue
            kept.append(paragraph)
        return without_empty_headings(kept)

    def is_copy(self, text: str) -> bool:
        """Whether most runs of words have been seen in earlier documents; if not, remembers this one's."""
        words = WORD.findall(text.lower())
        runs = range(max(1, len(words) - SHINGLEWORDS + 1))
        shingles = {zlib.crc32(" ".join(words[start : start + SHINGLEWORDS]).encode()) for start in runs}
        if len(shingles & self._shingles) > MAX_SEEN_FRACTION * len(shingles):
            return True
        self._shingles |= shingles
        return False


# ---------------------------------------------------------------- extraction and its cache


Documented = tuple[str, list[str] | None]
"""The id of a documentation string, and its paragraphs; None if it is too short."""


def _documented(source: Source) -> list[Documented]:
    try:
        code = source.path.read_bytes()
    except OSError:  # listed by its distribution, removed since
        return []
    if b'"""' not in code and b"'''" not in code:
        return []
    return [
        (f"{source.package}/{source.module}:{qualname}", _paragraphs_of(text)) for qualname, text in docstrings(code)
    ]


def _paragraphs_of(text: str) -> list[str] | None:
    return clean_docstring(text) if len(text) >= MIN_CHARACTERS else None


def _language_reference() -> Iterator[Documented]:
    from pydoc_data.topics import topics  # 700 kB that only an extraction needs

    for name in sorted(topics):
        yield f"python/pydoc_data.topics:{name}", _paragraphs_of(topics[name])


@contextmanager
def _all_documented(sources: Sequence[Source]) -> Iterator[Iterable[list[Documented]]]:
    """What each file documents, in order; many files are read by as many processes as there are cores."""
    cores = _num_cores()
    if cores < 2 or len(sources) < FILES_FOR_SEVERAL_PROCESSES:
        yield map(_documented, sources)
        return
    with ProcessPoolExecutor(cores, multiprocessing.get_context("fork"), _begin_reading) as pool:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            # Python warns of other threads, whose locks a copy of this process never gets. It only reads files.
            results = pool.map(_documented, sources, chunksize=FILES_AT_ONCE)
        try:
            yield results
        finally:
            pool.shutdown(cancel_futures=True)


def _num_cores() -> int:
    """The cores of this process where others can be made by copying it, else 1."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def _begin_reading() -> None:
    """In a process that reads: leave signals to the one that asked, and end with it, whatever ends it."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def extract(
    sources: Sequence[Source], *, statistics: Statistics, language_reference: bool = False
) -> Iterator[tuple[str, str]]:
    """The id and text of every document worth keeping; ``statistics`` is filled on the way."""
    bar = tqdm(
        total=len(sources),
        desc="Reading the documentation of installed packages",
        unit=" files",
        disable=None,
    )
    duplicates = DuplicateFilter()
    used_ids: Counter[str] = Counter()

    def kept(documented: Iterable[Documented]) -> Iterator[tuple[str, str]]:
        for identifier, paragraphs in documented:
            if paragraphs is None:
                statistics.num_short += 1
                continue
            text = "\n".join(duplicates.new_paragraphs(paragraphs))
            if len(text) < MIN_CHARACTERS:
                is_short = sum(map(len, paragraphs)) < MIN_CHARACTERS
                statistics.num_short += is_short
                statistics.num_duplicates += not is_short
                continue
            if duplicates.is_copy(text):
                statistics.num_duplicates += 1
                continue
            used_ids[identifier] += 1
            if used_ids[identifier] > 1:  # overloads, setters, definitions by platform
                identifier = f"{identifier}:{used_ids[identifier]}"
            statistics.num_documents += 1
            statistics.num_characters += len(text)
            statistics.characters_by_package[identifier.split("/")[0]] += len(text)
            yield identifier, text

    had_garbage_collection = gc.isenabled()
    gc.disable()  # syntax trees are large and have no cycles: scanning them costs more than parsing
    try:
        with _all_documented(sources) as all_documented, bar:
            for documented in all_documented:
                statistics.num_files += 1
                bar.update()
                yield from kept(documented)
    finally:
        if had_garbage_collection:
            gc.enable()
    if language_reference:
        yield from kept(_language_reference())


def prepare_builtin_corpus(fingerprint: str) -> Path:
    """The cached corpus as a ``.jsonl.zst`` file with ``id`` and ``text``; extracts it first where there is none."""
    path = Path(datasets.config.HF_CACHE_HOME, "hf_minibert", f"builtin-{fingerprint}.jsonl.zst")
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    statistics = Statistics()
    with (
        replaced_file(path) as unfinished,
        unfinished.open("wb") as file,
        zstandard.ZstdCompressor(level=6).stream_writer(file) as writer,
    ):
        for identifier, text in extract(installed_sources(), statistics=statistics, language_reference=True):
            writer.write(json.dumps({"id": identifier, "text": text}).encode() + b"\n")
    logger.info("builtin corpus: %s", statistics)
    return path
