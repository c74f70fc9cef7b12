"""Tagged sentences: every scheme is read as IOB2, every form of file alike, and what is wrong is one line."""

import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_minibert.errors import UserError
from hf_minibert.finetuning.tagged import load_tagged, scheme_of, to_iob2

# Two neighbours of one type, a type that follows another, an entity of one word and one of three.
IOB2 = ["B-PER", "B-PER", "I-PER", "O", "B-LOC", "B-ORG", "I-ORG", "I-ORG"]
WRITTEN = {
    "IOB1": ["I-PER", "B-PER", "I-PER", "O", "I-LOC", "I-ORG", "I-ORG", "I-ORG"],
    "IOB2": IOB2,
    "IOBES": ["S-PER", "B-PER", "E-PER", "O", "S-LOC", "B-ORG", "I-ORG", "E-ORG"],
    "BILOU": ["U-PER", "B-PER", "L-PER", "O", "U-LOC", "B-ORG", "I-ORG", "L-ORG"],
}


@pytest.mark.parametrize("scheme", WRITTEN)
def test_every_scheme_is_told_and_read_as_iob2(scheme: str) -> None:
    assert scheme_of([WRITTEN[scheme]]) == scheme
    assert to_iob2(WRITTEN[scheme]) == IOB2


def test_behind_an_end_begins_another_entity() -> None:
    assert to_iob2(["S-PER", "I-PER", "E-PER", "E-PER"]) == ["B-PER", "B-PER", "I-PER", "B-PER"]
    assert scheme_of([["I-PER", "O", "B-PER"]]) == "a mix of IOB1 and IOB2"


@pytest.mark.parametrize("tags", [["NOUN", "VERB"], ["O", "O"], ["B-PER", "PER"], ["B-", "O"]])
def test_other_tags_are_no_entities(tags: list[str]) -> None:
    assert scheme_of([tags]) is None


SENTENCES = [
    (["EU", "rejects", "German", "call"], ["I-ORG", "O", "I-MISC", "O"]),
    (["Peter", "Blackburn"], ["I-PER", "I-PER"]),
    (["👩‍👩‍👧", "José́", "#", "Zürich", "."], ["O", "I-PER", "O", "B-LOC", "O"]),
    (["BRUSSELS"], ["I-LOC"]),
    *((["nothing", f"here{at}"], ["O", "O"]) for at in range(30)),
]
LABELS = ["O", "B-LOC", "I-LOC", "B-MISC", "I-MISC", "B-ORG", "I-ORG", "B-PER", "I-PER"]


def write(path: Path, sentences: list[tuple[list[str], list[str]]] = SENTENCES, names: list[str] | None = None) -> Path:
    """Sentences in the form of the file's suffix; with names, tags as class ids."""
    rows: list[dict[str, Any]] = [
        {"id": str(at), "tokens": words, "ner_tags": tags} for at, (words, tags) in enumerate(sentences)
    ]
    if names is not None:
        rows = [row | {"ner_tags": [names.index(tag) for tag in row["ner_tags"]]} for row in rows]
    if ".conll" in path.name:
        text = "".join("".join(f"{word} X {tag}\n" for word, tag in zip(*one, strict=True)) + "\n" for one in sentences)
    elif ".jsonl" in path.name:
        text = "".join(json.dumps(row) + "\n" for row in rows)
    elif ".json" in path.name:
        text = json.dumps(rows)
    else:
        kind = Value("string") if names is None else ClassLabel(names=names)
        kinds = Features({"id": Value("string"), "tokens": List(Value("string")), "ner_tags": List(kind)})
        Dataset.from_list(rows, features=kinds).to_parquet(path)
        return path
    path.write_bytes(lzma.compress(text.encode()) if path.name.endswith(".xz") else text.encode())
    return path


FORMS = ("train.conll", "train.conll.xz", "train.jsonl", "train.jsonl.xz", "train.json", "train.parquet")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_alike(tmp_path: Path, form: str) -> None:
    data = load_tagged(str(write(tmp_path / form)), test_source=str(write(tmp_path / f"test{form[5:]}")))
    assert (data.labels, data.scheme) == (LABELS, "a mix of IOB1 and IOB2")
    read = {
        tuple(words): [LABELS[tag] for tag in tags]
        for words, tags in zip(data.splits["test"]["words"], data.splits["test"]["tags"], strict=True)
    }
    assert read == {tuple(words): to_iob2(tags) for words, tags in SENTENCES}
    train, held = (set(map(tuple, data.splits[split]["words"])) for split in ("train", "eval"))
    assert train | held == set(read)
    assert train
    assert held
    assert not train & held
    assert "tags: a mix of IOB1 and IOB2, read as IOB2, entities: LOC, MISC, ORG, PER" in data.notes
    assert any("held out, by their hash" in note for note in data.notes)


def test_class_ids_have_the_names_of_the_column_or_of_the_flag(tmp_path: Path) -> None:
    there = ["O", "I-ORG", "I-MISC", "I-PER", "B-LOC", "I-LOC"]
    named = load_tagged(str(write(tmp_path / "train.parquet", names=there)))
    (tmp_path / "ids").mkdir()
    given = load_tagged(str(write(tmp_path / "ids" / "train.jsonl", names=there)), label_names=there)
    for data in (named, given):
        assert data.labels == LABELS
        assert data.splits["train"].to_dict() == named.splits["train"].to_dict()


def test_a_folder_of_conll_files(tmp_path: Path) -> None:
    for name in ("train.txt", "dev.conll", "notes.doc"):
        (tmp_path / name).write_text("EU\tB-ORG\nis\tO\n\nParis\tB-LOC\n")
    data = load_tagged(str(tmp_path))
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 2, "eval": 2}
    assert data.notes == ["not read: notes.doc", "tags: IOB2, entities: LOC, ORG"]


@pytest.mark.parametrize("gap", [" ", "\t", "  "])
def test_a_word_is_what_stands_between_columns(tmp_path: Path, gap: str) -> None:
    """Also one with a space of another kind; comments before sentences are none."""
    sentences = [["#", "10\u00a0000", "a\u2028b", "x=y"], ["c\u3000d", "#", "\x85e"]]
    lines = ["# sent_id = 1", *(f"{word}{gap}F=1{gap}O" for word in sentences[0]), "", "# id 2 domain=news"]
    lines += [f"{word}{gap}_{gap}B-X" for word in sentences[1]]
    (tmp_path / "train.conll").write_text("\n".join(lines) + "\n")
    (tmp_path / "dev.conll").write_text(f"a{gap}_{gap}O\n")
    assert load_tagged(str(tmp_path)).splits["train"]["words"][:] == sentences


def test_a_tag_that_keeps_the_others_from_being_entities_is_named(tmp_path: Path) -> None:
    for name in ("train.conll", "dev.conll"):
        (tmp_path / name).write_text("a B-X\nb O\nc B_X\n")
    data = load_tagged(str(tmp_path))
    assert data.scheme is None
    (note,) = data.notes
    assert "not read as entities, since the tag B_X (" in note
    assert "train.conll, line 1)" in note


@pytest.mark.parametrize("odd", ["ORG-B", "b-org"])
def test_tags_that_look_like_entities_and_are_none_are_named(tmp_path: Path, odd: str) -> None:
    for name in ("train.conll", "dev.conll"):
        (tmp_path / name).write_text(f"a {odd}\nb O\n")
    assert any(f"not read as entities, since the tag {odd} (" in note for note in load_tagged(str(tmp_path)).notes)


def test_tags_without_a_type_are_entities_of_one(tmp_path: Path) -> None:
    for name in ("train.conll", "dev.conll"):
        (tmp_path / name).write_text("deep B\nnets I\nwork O\n\ngraphs B\n")
    data = load_tagged(str(tmp_path))
    assert (data.labels, data.scheme) == (["O", "B-ENTITY", "I-ENTITY"], "IOB2")
    assert [data.splits["eval"][at]["tags"] for at in range(2)] == [[1, 2, 0], [1]]
    assert "tags without a type of entity: read as ENTITY" in data.notes


def test_other_columns_are_named_and_plain_tags_stay(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    rows = [{"words": [f"w{at}", "runs"], "xpos": ["NN", "VB"], "upos": ["NOUN", "VERB"]} for at in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"words": [], "xpos": [], "upos": []}]))
    data = load_tagged(str(path), tags_column="upos")
    assert (data.labels, data.scheme) == (["NOUN", "VERB"], None)
    assert data.notes[0] == "columns: words words, tags upos"
    assert data.notes[1] == "train: 1 rows without a word are left out"


WRONG: dict[str, tuple[dict[str, str], dict[str, Any], str]] = {
    "no such column": ({"train.jsonl": '{"tokens": ["a"], "pos": ["O"]}'}, {}, "--label_column"),
    "named column is missing": (
        {"train.jsonl": '{"tokens": ["a"], "tags": ["O"]}'},
        {"tags_column": "ner"},
        "has no column 'ner'; it has tokens, tags",
    ),
    "no lists": ({"train.csv": "tokens,tags\na b,O O\n"}, {}, "must hold a list a row, but it holds 'a b'"),
    "not as many": (
        {"train.jsonl": '{"tokens": ["a", "b"], "tags": ["O"]}'},
        {},
        "line 1 has 2 words and 1 tags; give every word one tag",
    ),
    "no word": ({"train.jsonl": '{"tokens": ["a", " "], "tags": ["O", "B-X"]}'}, {}, "has the word ' '"),
    "a number for a word": ({"train.jsonl": '{"tokens": [1], "tags": ["O"]}'}, {}, "has the word 1"),
    "no tag": ({"train.jsonl": '{"tokens": ["a"], "tags": [null]}'}, {}, "has the tag None"),
    "numbers without names": (
        {"train.jsonl": '{"tokens": ["a"], "tags": [3]}'},
        {},
        "has the tag 3, a number; say what 0, 1, ... mean with --label_names",
    ),
    "too few names": (
        {"train.jsonl": '{"tokens": ["a"], "tags": [3]}'},
        {"label_names": ["O", "B-X"]},
        "has the class id 3; the names are for 0 to 1",
    ),
    "a name twice": (
        {"train.jsonl": '{"tokens": ["a", "b"], "tags": [0, 2]}'},
        {"label_names": ["O", "B-X", "B-X"]},
        "--label_names gives the name 'B-X' twice; name each label once",
    ),
    "not among the names": (
        {"train.jsonl": '{"tokens": ["a"], "tags": ["B-Y"]}'},
        {"label_names": ["O", "B-X"]},
        "has the tag B-Y, which is none of O, B-X",
    ),
    "one tag only": ({"train.jsonl": '{"tokens": ["a", "b"], "tags": ["O", "O"]}'}, {}, "have the tag O; give others"),
    "a type that training lacks": (
        {"train.conll": "a B-X\nb O\n", "dev.conll": "a B-X\n\nb B-Y\n"},
        {},
        r"the eval split has entities of type Y \(.*dev.conll, line 3\), which the training split does not",
    ),
    "a tag that training lacks": (
        {"train.conll": "a NOUN\nb VERB\n", "test.conll": "a X\n"},
        {},
        r"the test split has the tag X \(.*test.conll, line 1\)",
    ),
    "no entities, though training has some": (
        {"train.conll": "a B-X\nb O\n", "dev.conll": "a B-X\n\nb B_X\n"},
        {},
        r"the eval split has the tag B_X \(.*dev.conll, line 3\), but the tags of the training split are entities",
    ),
    "other tags altogether": (
        {"train.conll": "a B-X\nb O\n", "dev.conll": "a NOUN\nb VERB\n"},
        {},
        r"the eval split has the tag NOUN \(.*dev.conll, line 1\)",
    ),
    "two forms": ({"train.conll": "a B-X\n", "dev.jsonl": "{}"}, {}, "dev.jsonl is no CoNLL file"),
    "builtin": ({}, {"source": "builtin"}, "no builtin data with tags"),
    "nothing there": ({}, {"source": "nowhere.conll"}, "nowhere.conll does not exist or is no file"),
    "too few": ({"train.conll": "a B-X\nb O\n"}, {}, "too few different"),
    "one column for both": (
        {"train.conll": "a B-X\nb O\n"},
        {"words_column": "1", "tags_column": "1"},
        "text_column and label_column are both '1'; they are two columns",
    ),
    "empty": ({"train.conll": ""}, {}, "is empty"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line(tmp_path: Path, case: str) -> None:
    files, settings, message = WRONG[case]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    source = settings.pop("source", None) if "source" in (settings := dict(settings)) else str(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_tagged(source, **settings)
    assert "\n" not in str(caught.value)


def test_a_file_of_unknown_form_says_what_it_may_be_called(tmp_path: Path) -> None:
    (tmp_path / "eng.train").write_text("EU I-ORG\nrejects O\n")
    with pytest.raises(UserError, match=r"eng.train is none of .conll, .*; a file with a word a line may be called \*"):
        load_tagged(str(tmp_path / "eng.train"))


def test_class_ids_mean_the_names_of_the_column_also_where_these_are_numbers(tmp_path: Path) -> None:
    names = ["1", "2", "3"]
    sentences = [([f"word {at}"], [tag]) for at, tag in enumerate(names)]
    for split in ("train", "dev"):
        write(tmp_path / f"{split}.parquet", sentences, names=names)
    data = load_tagged(str(tmp_path))
    assert [data.labels[tag] for (tag,) in data.splits["train"]["tags"]] == names


def test_plain_tags_have_the_order_of_the_names_that_are_given(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        (tmp_path / f"{split}.jsonl").write_text('{"tokens": ["a", "b", "c"], "tags": [0, 2, 1]}\n')
    data = load_tagged(str(tmp_path), label_names=["NOUN", "ADJ", "VERB"])
    assert data.labels == ["NOUN", "ADJ", "VERB"]
    assert data.splits["train"]["tags"][:] == [[0, 2, 1]]


@pytest.mark.parametrize("row", ['{"tokens": ["a", "b"]}', '{"tokens": ["a", "b"], "tags": [-1, -1]}'])
def test_a_test_split_whose_tags_are_secret_is_not_measured(tmp_path: Path, row: str) -> None:
    for split in ("train", "dev"):
        (tmp_path / f"{split}.jsonl").write_text('{"tokens": ["a", "b"], "tags": [0, 1]}\n')
    (tmp_path / "test.jsonl").write_text(row + "\n")
    data = load_tagged(str(tmp_path), label_names=["O", "B-X"])
    assert "test" not in data.splits
    assert f"not measured: {tmp_path / 'test.jsonl'}, which has no tags, only -1 or none" in data.notes
    named = str(tmp_path / "test.jsonl")
    with pytest.raises(UserError, match="test_dataset .* has no tags|has no column 'tags'"):
        load_tagged(str(tmp_path), test_source=named, label_names=["O", "B-X"])
