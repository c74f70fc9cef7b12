"""Token classification: from files of words and tags to sentences, tags and their names.

In: CoNLL files, or what `hf_minibert.data.tables` reads, with a list of words and a list of tags a row. Out: splits
with the columns `words`, `tags` (class ids) and `row` (the place in the file), and the tags' names. Tags of entities
become IOB2, whichever scheme they are written in: IOB1 or IOB2 (Ramshaw and Marcus 1995; Tjong Kim Sang and Veenstra
1999), IOBES or BILOU (Ratinov and Roth 2009). Other tags, such as parts of speech, stay what they are.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from hf_minibert.data import conll
from hf_minibert.data.labels import require_different
from hf_minibert.data.splits import (
    Source,
    choose_column,
    different_columns,
    held_out,
    named,
    read_source,
    split_files,
    tell_files,
)
from hf_minibert.data.tables import SUFFIXES, Table, format_of, listed, shown
from hf_minibert.errors import UserError

WORD_COLUMNS = ("tokens", "words", "text", "sentence")
TAG_COLUMNS = ("ner_tags", "tags", "labels", "label", "ner")
"""What columns of words and of tags are called; the first name goes before the others."""
OUTSIDE = "O"
_ENTITY_TAG = re.compile(r"([BIESLUM])-(.+)", re.DOTALL)
_ENDS = ("E", "S", "L", "U")
_TYPELESS = frozenset("BIESLUM")
UNNAMED = "ENTITY"
"""The type of entities whose tags name none: B, I and O."""
_LIKE_AN_ENTITY = re.compile(r"[BIESLUM]-.+|.+-[BIESLUM]|[BI]", re.DOTALL | re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True, kw_only=True)
class TaggedData:
    """Splits with the columns `words`, `tags` and `row`."""

    hub_id: str | None
    """The data set's name on the Hub, if it came from there."""
    splits: dict[str, Dataset]
    labels: list[str]
    """The name of every class id."""
    scheme: str | None
    """How entities are written in the training split; None where tags are no entities."""
    notes: list[str]
    """Lines that tell the user which columns are read, and what was left out."""


def load_tagged(
    source: str,
    *,
    eval_source: str | None = None,
    test_source: str | None = None,
    words_column: str | None = None,
    tags_column: str | None = None,
    label_names: list[str] | None = None,
) -> TaggedData:
    """Read tagged sentences. Without an evaluation split, a tenth of the training split, chosen by hash, becomes it.

    Args:
        source: a CoNLL file, a table, a folder with files named after their splits, or a Hub name.
        eval_source: a file for the evaluation split, in the source's form: CoNLL files, or tables.
        test_source: a file for the test split, likewise.
        words_column: the column of the words; in a CoNLL file a number. Default: the one with a usual name; the first.
        tags_column: the column of the tags. Default: the one with a usual name; the last.
        label_names: what the class ids 0, 1, ... in the column of tags mean.

    Raises:
        UserError: a file, column, word or tag is missing, unreadable or not acceptable.
    """
    require_different(label_names or ())
    read = _read(source, eval_source, test_source, words_column, tags_column)
    notes = [f"not read: {listed(read.not_read)}"] if read.not_read else []
    if "test" in read.tables and _lacks_tags(read.tables["test"], read.columns["label_column"]):
        if test_source is not None:
            raise UserError(f"test_dataset {test_source} has no tags, only -1 or none; leave it out")
        notes.append(f"not measured: {read.tables.pop('test').name}, which has no tags, only -1 or none")
    sentences = {split: _sentences(table, read.columns, label_names) for split, table in read.tables.items()}
    if read.columns["text_column"] not in (words_column, conll.WORDS, WORD_COLUMNS[0]) or (
        read.columns["label_column"] not in (tags_column, conll.TAGS, TAG_COLUMNS[0])
    ):
        notes.insert(
            0, f"columns: words {shown(read.columns['text_column'])}, tags {shown(read.columns['label_column'])}"
        )
    for split, some in sentences.items():
        without = len(read.tables[split]) - len(some)
        if without:
            notes.append(f"{split}: {without:,} rows without a word are left out")
        if not some:
            raise UserError(f"{read.tables[split].name} has no words")
    there = {tag for _, tags, _ in sentences["train"] for tag in tags}
    if there <= {OUTSIDE, *_TYPELESS} and OUTSIDE in there and there & {"B", "I"}:
        notes.append(f"tags without a type of entity: read as {UNNAMED}")
        for some in sentences.values():
            some[:] = [
                (words, [f"{tag}-{UNNAMED}" if tag in _TYPELESS else tag for tag in tags], place)
                for words, tags, place in some
            ]
    scheme = scheme_of(tags for _, tags, _ in sentences["train"])
    if scheme is None and (OUTSIDE in there or "o" in there) and any(map(_LIKE_AN_ENTITY.fullmatch, there)):
        odd = _odd_tag(read.tables["train"], sentences["train"])
        notes.append(f"tags: not read as entities, since {odd} is neither {OUTSIDE} nor one as B-PER")
    if scheme is not None:
        for split, some in sentences.items():
            if (odd := _odd_tag(read.tables[split], some)) is not None:
                raise UserError(
                    f"the {split} split has {odd}, but the tags of the training split are entities: {OUTSIDE}, and "
                    "others as B-PER; write those of both alike"
                )
            some[:] = [(words, to_iob2(tags), place) for words, tags, place in some]
    labels = label_order({tag for _, tags, _ in sentences["train"] for tag in tags}, scheme, label_names)
    if scheme is not None:
        read_as = "" if scheme == "IOB2" else ", read as IOB2"
        notes.append(f"tags: {scheme}{read_as}, entities: {listed(types_of(labels))}")
    if len(labels) < 2:
        raise UserError(f"all words of {read.tables['train'].name} have the tag {shown(labels[0])}; give others, too")
    splits = {split: _dataset(read.tables[split], split, some, labels, scheme) for split, some in sentences.items()}
    if "eval" not in splits:
        train = splits["train"]
        out = held_out([" ".join(words) for words in train["words"]], source)
        for split, side in (("eval", True), ("train", False)):
            splits[split] = train.select([place for place, is_out in enumerate(out) if is_out is side])
        notes.append(
            f"no evaluation split: {len(splits['eval']):,} of {len(train):,} sentences are held out, by their hash"
        )
    return TaggedData(hub_id=read.hub_id, splits=splits, labels=labels, scheme=scheme, notes=notes)


def _read(
    source: str, eval_source: str | None, test_source: str | None, words_column: str | None, tags_column: str | None
) -> Source:
    """The tables of every split."""

    def choose(there: Sequence[str], where: str) -> Mapping[str, str]:
        return different_columns(
            {
                "text_column": words_column or choose_column(there, where, "text_column", WORD_COLUMNS),
                "label_column": tags_column or choose_column(there, where, "label_column", TAG_COLUMNS),
            }
        )

    if source == "builtin":
        raise UserError("there is no builtin data with tags; give a file, a folder or a name on the Hub with --dataset")
    given = named(eval_source, test_source)
    path = Path(source)
    files, not_read = {"train": path}, list[str]()
    if path.is_dir():
        found, not_read = split_files(path, (*conll.SUFFIXES, *SUFFIXES), beside=given, takes_parts=True)
        files = {split: parts[0] for split, parts in found.items()}
        if any(conll.is_conll(one[0]) and len(one) > 1 for one in found.values()):
            raise UserError(f"{path} has a split in several CoNLL files; join them into one")
    known = (*conll.SUFFIXES, *SUFFIXES)
    for name in (source, *given.values()):
        if Path(name).is_file() and format_of(Path(name), known)[1] is None:
            raise UserError(f"{name} is none of {', '.join(known)}; a file with a word a line may be called *.conll")
        if conll.is_conll(Path(name)) and not Path(name).is_file():
            raise UserError(f"{name} does not exist or is no file; check the path")
    if not any(conll.is_conll(file) for file in files.values()):
        for split, name in given.items():
            if conll.is_conll(Path(name)):
                raise UserError(f"{split}_dataset {name} is a CoNLL file, but {source} is none; give both in one form")
        return read_source(source, choose, eval_source=eval_source, test_source=test_source)
    tell_files({split: [file] for split, file in files.items()} if path.is_dir() else {})
    for split, name in given.items():
        files[split] = Path(name)
    columns = different_columns({"text_column": words_column or conll.WORDS, "label_column": tags_column or conll.TAGS})
    tables = dict[str, Table]()
    for split, file in files.items():
        if not conll.is_conll(file):
            raise UserError(f"{file} is no CoNLL file, but another split is one; give all in one form")
        tables[split] = conll.read_conll(file, columns)
    return Source(tables, None, not_read, columns)


def _lacks_tags(table: Table, column: str) -> bool:
    """Whether no word of a table has a tag, as where those of a test split are kept secret."""
    found = table.columns[column]
    return all(tags is None or (isinstance(tags, list) and {*map(str, tags)} <= {"-1", "None"}) for tags in found)


Sentence = tuple[list[str], list[str], int]
"""Words, tags, and the index in the table."""


def _sentences(table: Table, columns: Mapping[str, str], label_names: list[str] | None) -> list[Sentence]:
    """The sentences that have words; raises a UserError for what is no list of words and as many tags."""
    words_of, tags_of = table.columns[columns["text_column"]], table.columns[columns["label_column"]]
    typed = table.class_names.get(columns["label_column"])
    names = label_names or typed
    found = list[Sentence]()
    for index, (words, tags) in enumerate(zip(words_of, tags_of, strict=True)):
        for option, values in (("text_column", words), ("label_column", tags)):
            if not isinstance(values, list):
                raise UserError(
                    f"{table.where(index)}: the column {columns[option]!r} must hold a list a row, but it holds "
                    f"{shown(repr(values))}; choose another --{option}, or write lists (.jsonl, .parquet) or a CoNLL "
                    "file"
                )
        if len(words) != len(tags):
            raise UserError(
                f"{table.where(index)} has {len(words)} words and {len(tags)} tags; give every word one tag"
            )
        for word in words:
            if not isinstance(word, str) or not word.strip():
                raise UserError(f"{table.where(index)} has the word {shown(repr(word))}; a word is a visible text")
        if words:
            found.append((words, [_tag(table, index, tag, names, typed is not None) for tag in tags], index))
    return found


def _tag(table: Table, index: int, value: object, names: list[str] | None, is_typed: bool) -> str:
    """A tag as text; a class id by its name. In a column whose type has names, every number is a class id."""
    is_id = isinstance(value, int) and not isinstance(value, bool)
    text = value.strip() if isinstance(value, str) else str(value)
    if not (is_id or isinstance(value, str)) or not text:
        raise UserError(f"{table.where(index)} has the tag {shown(repr(value))}; a tag is a text or a class id")
    if names is not None and text in names and not (is_id and is_typed):
        return text
    if is_id or _NUMBER.fullmatch(text):
        if names is None:
            raise UserError(
                f"{table.where(index)} has the tag {shown(text)}, a number; say what 0, 1, ... mean with "
                "--label_names, as in --label_names O B-PER I-PER"
            )
        if not 0 <= int(text) < len(names):
            raise UserError(
                f"{table.where(index)} has the class id {shown(text)}; the names are for 0 to {len(names) - 1}"
            )
        return names[int(text)]
    if names is not None:
        raise UserError(f"{table.where(index)} has the tag {shown(text)}, which is none of {listed(names)}")
    return text


def _odd_tag(table: Table, sentences: Iterable[Sentence]) -> str | None:
    """The first tag, and where it is, that is none of an entity."""
    odd = ((tag, at) for _, tags, at in sentences for tag in tags if tag != OUTSIDE and not _ENTITY_TAG.fullmatch(tag))
    return next((f"the tag {shown(tag)} ({table.where(at)})" for tag, at in odd), None)


def _dataset(table: Table, split: str, sentences: list[Sentence], labels: list[str], scheme: str | None) -> Dataset:
    """Sentences with class ids."""
    ids = {label: class_id for class_id, label in enumerate(labels)}
    for _, tags, index in sentences:
        for tag in tags:
            if tag not in ids:
                what = f"entities of type {shown(tag[2:])}" if scheme and tag != OUTSIDE else f"the tag {shown(tag)}"
                known = types_of(labels) if scheme else labels
                raise UserError(
                    f"the {split} split has {what} ({table.where(index)}), which the training split does not have; it "
                    f"has {listed(known)}"
                )
    return Dataset.from_dict(
        {
            "words": [words for words, _, _ in sentences],
            "tags": [[ids[tag] for tag in tags] for _, tags, _ in sentences],
            "row": [int(table.numbers[index]) for _, _, index in sentences],
        }
    )


# ---------------------------------------------------------------- schemes


def scheme_of(sentences: Iterable[Sequence[str]]) -> str | None:
    """How the tags of some sentences write entities; None if they are no tags of entities."""
    prefixes, begins_inside, needs_b = set[str](), False, False
    for tags in sentences:
        before = ("", "")
        for tag in tags:
            found = _ENTITY_TAG.fullmatch(tag)
            if found is None and tag != OUTSIDE:
                return None
            prefix, kind = found.groups() if found else ("", "")
            prefixes.add(prefix)
            begins_inside |= prefix == "I" and (kind != before[1] or before[0] in _ENDS)
            needs_b |= prefix == "B" and kind != before[1]
            before = (prefix, kind)
    prefixes.discard("")
    if not prefixes:
        return None
    if prefixes & set("LU"):
        return "BILOU"
    if prefixes & set("ESM"):
        return "IOBES"
    if not begins_inside:
        return "IOB2"
    return "a mix of IOB1 and IOB2" if needs_b else "IOB1"


def to_iob2(tags: Sequence[str]) -> list[str]:
    """The same entities in IOB2: the first word of each has B-, the others I-.

    An entity begins at B, S and U, where the type changes, and behind E, L, S and U.
    """
    found, before = list[str](), ("", "")
    for tag in tags:
        match = _ENTITY_TAG.fullmatch(tag)
        if match is None:
            before = ("", "")
            found.append(OUTSIDE)
            continue
        prefix, kind = match.groups()
        begins = prefix in "BSU" or kind != before[1] or before[0] in _ENDS
        found.append(f"{'B' if begins else 'I'}-{kind}")
        before = (prefix, kind)
    return found


def label_order(there: set[str], scheme: str | None, given: list[str] | None = None) -> list[str]:
    """All labels that a model needs, in the order of their class ids: of entities O, then B- and I- of each type.

    Of other tags, the order of the names that the user gives.
    """
    if scheme is None:
        return sorted(there) if given is None else [name for name in given if name in there]
    types = sorted({tag[2:] for tag in there if tag != OUTSIDE})
    return [OUTSIDE, *(f"{prefix}-{kind}" for kind in types for prefix in "BI")]


def types_of(labels: Iterable[str]) -> list[str]:
    """The types of entities among labels in IOB2."""
    return list(dict.fromkeys(label[2:] for label in labels if label != OUTSIDE))
