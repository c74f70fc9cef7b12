"""Question answering: from files in the form of SQuAD to questions, the texts that answer them, and their answers.

In: SQuAD's own nested .json, or what `hf_minibert.data.tables` reads, a question a row. Out: splits with the columns
`id`, `question`, `context`, `answers` (all true ones; none where the text has no answer), `start` (of the first answer
in the text; None where there is none) and `row`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, Features, List, Value

from hf_minibert.data.splits import SPLITS, choose_column, different_columns, held_out, read_source
from hf_minibert.data.tables import MayLack, Table, listed, shown
from hf_minibert.errors import UserError

QUESTION_COLUMNS = ("question", "query")
CONTEXT_COLUMNS = ("context", "passage", "paragraph", "text")
ANSWERS_COLUMNS = ("answers", "answer")
"""What columns of questions, texts and answers are called; the first name goes before the others."""
_MISPLACED, _NOWHERE = "not where answer_start says", "no part of the context"
_LIMITS = {
    _MISPLACED: (
        0.01,
        "it counts characters of the context, from 0. Correct them, or take their questions away",
    ),
    _NOWHERE: (0.5, "give answers as they stand there"),
}
"""Up to what share of the answers may be so, and what to do about more, which are a fault of the file."""
FEATURES = Features(
    {
        **{name: Value("string") for name in ("id", "question", "context")},
        "answers": List(Value("string")),
        "start": Value("int64"),
        "row": Value("int64"),
    }
)
PARAGRAPHS, ID, ANSWER_START, IS_IMPOSSIBLE = "paragraphs", "id", "answer_start", "is_impossible"
"""SQuAD's own names, of the articles' paragraphs and of what questions have."""


@dataclass(frozen=True, kw_only=True)
class QuestionData:
    """Splits with the columns `id`, `question`, `context`, `answers`, `start` and `row`."""

    hub_id: str | None
    """The data set's name on the Hub, if it came from there."""
    splits: dict[str, Dataset]
    may_lack: bool
    """Whether there are questions without an answer."""
    notes: list[str]
    """Lines that tell the user which columns are read, and what was left out."""


def load_questions(
    source: str,
    *,
    eval_source: str | None = None,
    test_source: str | None = None,
    question_column: str | None = None,
    context_column: str | None = None,
    answers_column: str | None = None,
) -> QuestionData:
    """Read questions. Without an evaluation split, a tenth of the texts, chosen by hash, becomes it.

    Args:
        source: a file (.json .jsonl .parquet, also compressed), a folder with files named after their splits, or a Hub
            name.
        eval_source: a file for the evaluation split.
        test_source: a file for the test split.
        question_column: the column of the question. Default: the one with a usual name, as for the others.
        context_column: the column of the text.
        answers_column: the column of the answers: SQuAD's {text: [...], answer_start: [...]}, a list of {text,
            answer_start}, or texts alone, which are looked for.

    Raises:
        UserError: a file, column, question, text or answer is missing, unreadable or not acceptable.
    """
    given = {
        "question_column": (question_column, QUESTION_COLUMNS),
        "context_column": (context_column, CONTEXT_COLUMNS),
        "answers_column": (answers_column, ANSWERS_COLUMNS),
    }

    def choose(there: Sequence[str], where: str) -> Mapping[str, str]:
        if PARAGRAPHS in there and not {name for name, _ in given.values()} & set(there):
            return {"context_column": PARAGRAPHS}
        chosen = {option: name or choose_column(there, where, option, usual) for option, (name, usual) in given.items()}
        return different_columns(chosen) | {name: MayLack(name) for name in (ID, ANSWER_START, IS_IMPOSSIBLE)}

    if source == "builtin":
        raise UserError("there is no builtin data with questions; give a file, a folder or a name on the Hub")
    read = read_source(source, choose, eval_source=eval_source, test_source=test_source)
    notes = [f"not read: {listed(read.not_read)}"] if read.not_read else []
    columns = read.columns
    if any(columns.get(option) not in (name, usual[0], PARAGRAPHS, None) for option, (name, usual) in given.items()):
        notes.insert(
            0, "columns: " + ", ".join(f"{option.removesuffix('_column')} {shown(columns[option])}" for option in given)
        )
    splits = {split: _dataset(table, columns) for split, table in read.tables.items()}
    if "test" in splits and not any(splits["test"]["answers"]):
        if test_source is not None:
            raise UserError(f"no question of test_dataset {test_source} has an answer; leave it out")
        notes.append(f"not measured: {read.tables['test'].name}, no question of which has an answer")
        del splits["test"]
    for split in SPLITS:
        if split in splits:
            splits[split] = _matching(split, splits[split], read.tables[split], notes)
    if "eval" not in splits:
        train = splits["train"]
        out = held_out(train["context"][:], source)  # all questions of a text are on one side
        for split, side in (("eval", True), ("train", False)):
            splits[split] = train.select([place for place, is_out in enumerate(out) if is_out is side])
        notes.append(
            f"no evaluation split: {len(splits['eval']):,} of {len(train):,} questions are held out, by the hash of "
            "their text"
        )
    may_lack = not all(splits["train"]["answers"])
    for split, some in splits.items():
        if not may_lack and not all(some["answers"]):
            row = next(place for place, answers in enumerate(some["answers"]) if not answers)
            raise UserError(
                f"the {split} split has a question without an answer ({shown(some['id'][row])}), but all training "
                "questions have one; train on both kinds, or take it away"
            )
    if not any(splits["train"]["answers"]):
        raise UserError(f"no question of {read.tables['train'].name} has an answer; give some that have one")
    return QuestionData(hub_id=read.hub_id, splits=splits, may_lack=may_lack, notes=notes)


def _dataset(table: Table, columns: Mapping[str, str]) -> Dataset:
    """The questions of a table; raises a UserError for what is none."""
    rows, ids = list[dict[str, Any]](), dict[str, str]()
    for where, number, name, question, context, answers in _questions(table, columns):
        for what, text in (("question", question), ("context", context)):
            if not isinstance(text, str) or not text.strip():
                raise UserError(f"{where}: the {what} is {shown(repr(text))}; give a text")
        texts, starts = _answers(where, answers)
        key = str(number) if name is None else str(name)
        if key in ids:
            raise UserError(f"{where} has the id {shown(key)}, as {ids[key]} has; give each question its own")
        ids[key] = where
        if starts is None:
            starts = [context.find(text) for text in texts[:1]]
        row = {"id": key, "question": question, "context": context, "answers": texts, "row": number}
        rows.append(row | {"start": starts[0] if starts else None})
    if not rows:
        raise UserError(f"{table.name} has no questions")
    return Dataset.from_list(rows, features=FEATURES)


def _questions(table: Table, columns: Mapping[str, str]) -> Iterator[tuple[str, int, Any, Any, Any, Any]]:
    """Place, number, id, question, text and answers of each question."""
    if columns["context_column"] != PARAGRAPHS or "question_column" in columns:
        names = (ID, ANSWER_START, IS_IMPOSSIBLE, "question_column", "context_column", "answers_column")
        each = zip(*(table.columns[columns[name]] for name in names), strict=True)
        for index, (name, start, mark, question, context, answers) in enumerate(each):
            if _is_impossible(mark, table.where(index), may_be_text=True):
                answers = []  # those that stand there are only plausible
            elif isinstance(answers, str) and not answers.strip():
                answers = []  # an empty cell
            elif start is not None and isinstance(answers, str | list):
                answers = _with_start(answers, start)
            yield table.where(index), int(table.numbers[index]), name, question, context, answers
        return
    number = 0
    for index, paragraphs in enumerate(table.columns[PARAGRAPHS]):
        for paragraph in _objects(paragraphs, table.where(index), PARAGRAPHS):
            for one in _objects(paragraph.get("qas"), table.where(index), "qas"):
                number += 1
                where = f"{table.where(index)}, question {shown(one.get(ID, number))}"
                answers = [] if _is_impossible(one.get(IS_IMPOSSIBLE), where) else one.get("answers")
                yield where, number, one.get(ID), one.get("question"), paragraph.get("context"), answers


def _is_impossible(mark: Any, where: str, *, may_be_text: bool = False) -> bool:
    """Whether a question is said to have no answer, by a truth value or, in a table, its text."""
    said = mark.strip().lower() if isinstance(mark, str) and may_be_text else mark
    if said not in (False, True, None, *(("", "false", "true", "0", "1") if may_be_text else ())):
        raise UserError(f"{where}: {IS_IMPOSSIBLE} is {shown(repr(mark))}; give true or false")
    return said in (True, "true", "1")


def _with_start(answers: Any, start: Any) -> Any:
    """Plain answers, or one, with their places, which stand in a column of their own; of a .csv, as text."""
    texts, places = ([one] if isinstance(one, str | int | float) else one for one in (answers, start))
    if not isinstance(places, list) or not all(isinstance(text, str) for text in texts):
        return answers
    return {"text": texts, "answer_start": [_whole(one) for one in places] if texts else []}


def _whole(place: Any) -> Any:
    """A whole number that is text, as in a .csv, or has a fraction of 0, as beside nulls; all else as it is."""
    if isinstance(place, str) and re.fullmatch(r"[0-9]+(\.0+)?", place.strip()):
        return int(float(place))
    return int(place) if isinstance(place, float) and place.is_integer() else place


def _objects(values: Any, where: str, name: str) -> list[dict[str, Any]]:
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise UserError(f"{where}: {name} must be a list of objects, as in SQuAD's files; it is {shown(repr(values))}")
    return values


def _answers(where: str, value: Any) -> tuple[list[str], list[int] | None]:
    """The answers that are written for a question, and where each begins; None where that is not written."""
    if value is None or value == []:
        return [], []
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        starts = [one["answer_start"] for one in value if "answer_start" in one]
        value = {"text": [one.get("text") for one in value]} | ({"answer_start": starts} if starts else {})
    texts = value.get("text") if isinstance(value, dict) else value
    places = value.get("answer_start") if isinstance(value, dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(
            f"{where}: the answers are {shown(repr(value))}; write {{text: [...], answer_start: [...]}}, as SQuAD does"
        )
    if texts and not all(text.strip() for text in texts):
        raise UserError(f"{where}: an answer is an empty text; leave the answers empty where there is none")
    if places is None:
        return texts, None
    if (
        not isinstance(places, list)
        or len(places) != len(texts)
        or not all(type(place) is int and 0 <= place < 1 << 31 for place in places)
    ):
        raise UserError(
            f"{where}: answer_start is {shown(repr(places))}; give the place of each answer's first character, from 0"
        )
    return texts, places


def _matching(split: str, rows: Dataset, table: Table, notes: list[str]) -> Dataset:
    """The training questions whose answer stands where it should; how many do not is noted.

    Of other splits, all questions: what is measured compares texts, which may stand nowhere.

    Raises:
        UserError: too many do not.
    """
    kept = list[int]()
    found: dict[str, list[str]] = {_MISPLACED: [], _NOWHERE: []}
    columns = (rows[name] for name in ("context", "answers", "start", "id"))
    for place, (context, answers, start, name) in enumerate(zip(*columns, strict=True)):
        if not answers or (start >= 0 and context.startswith(answers[0], start)):
            kept.append(place)
            continue
        said = f"the first is {shown(name)}: the answer is {shown(repr(answers[0]))}, but "
        if start >= 0:
            there = context[start : start + len(answers[0])]
            found[_MISPLACED].append(f"{said}at {start} stands {shown(repr(there))}")
        elif split == "train":
            found[_NOWHERE].append(f"{said}it is nowhere in the context")
    count = sum(map(bool, rows["answers"]))
    for words, (most, remedy) in _LIMITS.items():
        wrong = found[words]
        if len(wrong) > most * count:
            raise UserError(f"{table.name}: {len(wrong):,} of {count:,} answers are {words} ({wrong[0]}); {remedy}")
        if wrong:
            left_out = "left out, since their answer is" if split == "train" else "kept, though their answer is"
            notes.append(f"{split}: {len(wrong):,} of {count:,} questions are {left_out} {words}; {wrong[0]}")
    return rows.select(kept) if split == "train" and len(kept) < len(rows) else rows
