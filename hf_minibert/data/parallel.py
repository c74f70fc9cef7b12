"""Pairs of texts in two languages, from two parallel text files or from a table.

In: what the user names, and the two languages. Out: the pairs of every split. Line 7 of one text file is the
translation of line 7 of the other; a table has a column for each language, or one column `translation` whose values
hold both, as on the Hub.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_minibert.data.sources import COMPRESSIONS, TABLE_FORMATS
from hf_minibert.data.splits import SPLITS, held_out, is_spare, named, read_source, split_of
from hf_minibert.data.tables import Table, listed, shown, text_lines
from hf_minibert.errors import UserError

Pair = tuple[str, str]
Numbered = list[tuple[int, Pair]]
"""Pairs, each with its line or its row."""

TRANSLATION = "translation"
"""The column whose values are dictionaries of languages, as `datasets` has them."""
_USUAL = (("source", "target"), ("src", "tgt"))


@dataclass(frozen=True)
class Pairs:
    """The pairs of every split, source first."""

    splits: dict[str, list[Pair]]
    """`train`, `eval` and perhaps `test`."""
    rows: dict[str, list[int]]
    """Of each pair of a split, its line or its row in its file."""
    languages: Pair
    """What the source and the target are called: the end of a file's name, or a column's name."""
    hub_id: str | None
    notes: list[str]
    """Lines that tell the user what is read, and what was left out."""


def read_pairs(
    dataset: str,
    *,
    eval_dataset: str | None = None,
    test_dataset: str | None = None,
    source_lang: str | None = None,
    target_lang: str | None = None,
) -> Pairs:
    """Read the pairs of every split; without an evaluation split, a tenth of the training split is held out.

    Args:
        dataset: a folder with parallel files for each split (`train.en`, `train.de`, `val.en`, ...; also compressed);
            the common beginning of two parallel files (`data/train`); or a table, a folder of tables or a Hub name.
        eval_dataset: the beginning of two parallel files, or a table, for the evaluation split.
        test_dataset: the same for the test split.
        source_lang: the end of the source's files, or its column; the other one if only `target_lang` is given, and
            there are two.
        target_lang: likewise.

    Raises:
        UserError: a file or a column is missing, unreadable, or does not fit its partner.
    """
    given = (source_lang, target_lang)
    if source_lang is not None and source_lang == target_lang:
        raise UserError(f"source_lang and target_lang are both {source_lang}; a translation has two languages")
    names, beside = _parallel_files(Path(dataset)), named(eval_dataset, test_dataset)
    if names:
        return _from_text(dataset, names, beside, given)
    return _from_tables(dataset, beside, given)


# ---------------------------------------------------------------- text files


def _parallel_files(path: Path) -> dict[str, dict[str, Path]]:
    """The files of each language, by what stands before the language in their names.

    None, if there are tables, or fewer than two languages.
    """
    folder, beginning = (path, None) if path.is_dir() else (path.parent, path.name)
    if path.is_file() or not folder.is_dir():
        return {}
    names: dict[str, dict[str, Path]] = {}
    for file in sorted(each for each in folder.iterdir() if each.is_file() and not each.name.startswith(".")):
        compression = next((end for end in COMPRESSIONS if file.name.lower().endswith(end)), "")
        plain = file.name[: len(file.name) - len(compression)]
        stem, _, language = plain.rpartition(".")
        if beginning is None and f".{language.lower()}" in TABLE_FORMATS and split_of(re.split(r"[._-]", stem)[0]):
            return {}
        if not stem or beginning not in (None, stem):
            continue
        before = names.setdefault(stem, {}).setdefault(language, file)
        if before != file:
            raise UserError(f"{folder} has {before.name} and {file.name}, which are one text; take one away")
    return {stem: files for stem, files in names.items() if len(files) > 1}


def _from_text(
    dataset: str,
    names: dict[str, dict[str, Path]],
    beside: Mapping[str, str],
    given: tuple[str | None, str | None],
) -> Pairs:
    stems = _split_stems(dataset, list(names), beside) if Path(dataset).is_dir() else {"train": next(iter(names))}
    files = {split: names[stem] for split, stem in stems.items()}
    for split, name in beside.items():
        found = _parallel_files(Path(name))
        if Path(name).is_dir() or not found:
            raise UserError(
                f"{split}_dataset {name} is not the beginning of two parallel files; name them without their "
                f"language, as in data/{split} for data/{split}.en and data/{split}.de"
            )
        files[split] = next(iter(found.values()))
    languages = _directions(dataset, sorted(files["train"]), given)
    notes = [f"source: {languages[0]}, target: {languages[1]}"]
    if Path(dataset).is_dir():
        read = {
            path for by_language in files.values() for language, path in by_language.items() if language in languages
        }
        not_read = sorted(path.name for path in Path(dataset).iterdir() if path not in read and path.name[0] != ".")
        notes += [f"not read: {listed(not_read)}"] if not_read else []
    numbered = dict[str, Numbered]()
    for split, by_language in files.items():
        missing = [language for language in languages if language not in by_language]
        if missing:
            there = listed(path.name for path in by_language.values())
            raise UserError(f"{dataset} has no {split} file in {missing[0]}; it has {there}")
        numbered[split] = _read_lines(by_language[languages[0]], by_language[languages[1]], notes)
    return _with_held_out(numbered, languages, None, notes, dataset)


def _split_stems(folder: str, stems: list[str], beside: Mapping[str, str]) -> dict[str, str]:
    """The beginning of the names of each split's files: `train`, or the only one that goes on, as `train.lc.norm`.

    Those of a split that is named beside the folder do not count.
    """
    found = {}
    for split, names in SPLITS.items():
        if split in beside:
            continue
        longer = [stem for stem in stems if re.split(r"[._-]", stem.lower())[0] in names]
        longer = [stem for stem in longer if not is_spare(stem)] or longer
        exact = [stem for stem in longer if stem.lower() in names]
        chosen = exact or longer
        if len(chosen) > 1:
            raise UserError(
                f"{folder} has several files for {split}: {listed(chosen)}; take all but one away"
                + (f", or name one with --{split}_dataset" if split != "train" else "")
            )
        if chosen:
            found[split] = chosen[0]
    if "train" not in found:
        raise UserError(
            f"the folder {folder} has no training files (train.en and train.de, ...); it has {listed(stems)} in two "
            "languages"
        )
    return found


def _directions(where: str, languages: Sequence[str], given: tuple[str | None, str | None]) -> Pair:
    """The language of the source and of the target."""
    for option, language in zip(("source_lang", "target_lang"), given, strict=True):
        if language is not None and language not in languages:
            raise UserError(f"{where} has nothing in {option} {language}; it has {listed(languages)}")
    source, target = given
    others = [language for language in languages if language not in given]
    if source is not None and target is not None:
        return source, target
    if given == (None, None) or len(others) != 1:
        raise UserError(
            f"{where} has {listed(languages)}; say which is translated into which with --source_lang and --target_lang"
        )
    return source or others[0], target or others[0]


def _read_lines(source: Path, target: Path, notes: list[str]) -> Numbered:
    """The lines of two files as pairs; those without text on a side are left out, and counted in `notes`."""
    sides = [[line.removesuffix("\r").strip() for _, line in text_lines(path)] for path in (source, target)]
    for path, lines in zip((source, target), sides, strict=True):
        if len(lines) == 1 and "\r" in lines[0]:
            raise UserError(f"{path} is one line, with carriage returns within; end each line with a line feed")
    if len(sides[0]) != len(sides[1]):
        raise UserError(
            f"{source} has {len(sides[0]):,} lines, but {target} has {len(sides[1]):,}; each line must be the "
            "translation of the same line of the other file"
        )
    pairs = list(enumerate(zip(*sides, strict=True), start=1))
    return _with_text(pairs, f"{source} and {target.name}", notes)


def _with_text(pairs: Numbered, where: str, notes: list[str]) -> Numbered:
    kept = [(number, pair) for number, pair in pairs if all(pair)]
    if not kept:
        raise UserError(f"{where} have no pair with text on both sides")
    if len(kept) < len(pairs):
        notes.append(f"{where}: {len(pairs) - len(kept):,} pairs without text on one side are left out")
    return kept


# ---------------------------------------------------------------- tables


def _from_tables(dataset: str, beside: Mapping[str, str], given: tuple[str | None, str | None]) -> Pairs:
    def choose(there: Sequence[str], where: str) -> Mapping[str, str]:
        if TRANSLATION in there and not set(given) - {None} & set(there):
            return {"source_lang": TRANSLATION}
        usual = next((pair for pair in _USUAL if set(pair) <= set(there)), None)
        source, target = usual if given == (None, None) and usual else _directions(where, there, given)
        return {"source_lang": source, "target_lang": target}

    read = read_source(dataset, choose, eval_source=beside.get("eval"), test_source=beside.get("test"))
    if "target_lang" in read.columns:
        languages = (read.columns["source_lang"], read.columns["target_lang"])
    else:
        first = read.tables["train"].columns[TRANSLATION][0]
        languages = _directions(
            f"the column {TRANSLATION} of {dataset}", list(_texts(read.tables["train"], 0, first)), given
        )
    notes = [f"source: {languages[0]}, target: {languages[1]}"]
    notes += [f"not read: {listed(read.not_read)}"] if read.not_read else []
    numbered = {split: _rows(table, languages, notes) for split, table in read.tables.items()}
    return _with_held_out(numbered, languages, read.hub_id, notes, dataset)


def _texts(table: Table, row: int, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(
            f"{table.where(row)}: {TRANSLATION} is {shown(repr(value))}, not one text for each language, as in "
            '{"en": "a house", "de": "ein Haus"}'
        )
    return value


def _rows(table: Table, languages: Pair, notes: list[str]) -> Numbered:
    """The pairs of a table."""
    sides: list[list[str]] = []
    for language in languages:
        values = []
        for row in range(len(table)):
            if language in table.columns:
                value = table.columns[language][row]
            else:
                texts = _texts(table, row, table.columns[TRANSLATION][row])
                if language not in texts:
                    raise UserError(f"{table.where(row)} has no {language}; it has {listed(texts)}")
                value = texts[language]
            if value is not None and not isinstance(value, str):
                raise UserError(f"{table.where(row)}: {language} is {shown(repr(value))}, not a text")
            values.append((value or "").strip())
        sides.append(values)
    pairs = list(zip(map(int, table.numbers), zip(*sides, strict=True), strict=True))
    return _with_text(pairs, table.name, notes)


def _with_held_out(
    numbered: dict[str, Numbered], languages: Pair, hub_id: str | None, notes: list[str], dataset: str
) -> Pairs:
    """The pairs; without an evaluation split, some of the training pairs become it, by the hash of the source."""
    if "eval" not in numbered:
        train = numbered.pop("train")
        is_out = held_out([source for _, (source, _) in train], dataset)
        for split, wanted in (("train", False), ("eval", True)):
            numbered[split] = [pair for pair, out in zip(train, is_out, strict=True) if out == wanted]
        notes.append(f"no evaluation split: {sum(is_out):,} of {len(train):,} pairs are held out, by their hash")
    splits = {split: [pair for _, pair in pairs] for split, pairs in numbered.items()}
    rows = {split: [number for number, _ in pairs] for split, pairs in numbered.items()}
    return Pairs(splits, rows, languages, hub_id, notes)
