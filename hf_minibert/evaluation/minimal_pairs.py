"""Minimal pairs: whether a model finds the acceptable one of two similar sentences more probable.

BLiMP (Warstadt et al. 2020, arXiv:1912.00582) and its kin, measured as the BabyLM evaluation pipeline of 2025 does:
log-probabilities of whole sentences, not normalised by their length; the accuracy of each paradigm, and the mean of
these accuracies, whatever the paradigms' sizes. That pipeline counts a tie as right, so ties are counted here, too, and
the accuracy in which a tie is half right stands beside.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_minibert.data.tables import MayLack, column_names, format_of, read_file, require_texts, table_files
from hf_minibert.errors import UserError
from hf_minibert.evaluation.arguments import EvaluateArguments
from hf_minibert.evaluation.opening import LanguageModel, open_language_model
from hf_minibert.evaluation.scores import text_scores
from hf_minibert.evaluation.suites import Result

TIE = 1e-5
"""Scores nearer than this, in nats, are equal: their sums in float32 do not tell them apart."""
PARADIGM_COLUMN = "UID"
FIELD_COLUMNS = ("field", "linguistics_term")
"""BLiMP's groups of paradigms; accuracies are given for each where a table has them."""
SAME_GROUP = {"syntax_semantics": "syntax/semantics"}
"""One group that BLiMP's files spell in two ways."""


@dataclass(frozen=True)
class Pairs:
    """Minimal pairs, in the order of their files."""

    name: str
    """What the data set is called: its folder, or its file without suffixes."""
    good: list[str]
    bad: list[str]
    paradigms: list[str]
    groups: dict[str, list[str]]
    """What the columns of `FIELD_COLUMNS` say of each pair, for those that all files have."""

    def __len__(self) -> int:
        return len(self.good)

    def first(self, count: int) -> "Pairs":
        """The first so many pairs of each paradigm."""
        seen: dict[str, int] = defaultdict(int)
        kept = []
        for index, paradigm in enumerate(self.paradigms):
            seen[paradigm] += 1
            if seen[paradigm] <= count:
                kept.append(index)
        good, bad, paradigms = ([column[index] for index in kept] for column in (self.good, self.bad, self.paradigms))
        groups = {name: [column[index] for index in kept] for name, column in self.groups.items()}
        return Pairs(self.name, good, bad, paradigms, groups)


def read(arguments: EvaluateArguments) -> tuple[Pairs, list[Path]]:
    """Read the pairs; which files hold them.

    Raises:
        UserError: there is no pair, a sentence is empty or no text, or a column is missing.
    """
    pairs = read_pairs(
        arguments.dataset or [],
        good_column=arguments.good_column,
        bad_column=arguments.bad_column,
        paradigm_column=arguments.paradigm_column,
    )
    chosen = pairs if arguments.max_pairs is None else pairs.first(arguments.max_pairs)
    return chosen, table_files(arguments.dataset or [])


def read_pairs(
    sources: Sequence[str], *, good_column: str, bad_column: str, paradigm_column: str | None = None
) -> Pairs:
    """Read the pairs of files and folders; see `read`."""
    good, bad, paradigms = list[str](), list[str](), list[str]()
    groups: dict[str, list[str]] = {name: [] for name in FIELD_COLUMNS}
    for path in table_files(sources):
        names = column_names(path)
        columns = {"good_column": good_column, "bad_column": bad_column}
        if paradigm_column is not None or PARADIGM_COLUMN in names:
            columns["paradigm_column"] = paradigm_column or PARADIGM_COLUMN
        groups = {name: column for name, column in groups.items() if name in names}
        table = read_file(path, columns | {name: MayLack(name) for name in groups})
        for option, column in columns.items():
            require_texts(table, option, column, blank=False)
        good += table.columns[good_column]
        bad += table.columns[bad_column]
        own_name = [format_of(path)[0]] * len(table)
        paradigms += table.columns[columns["paradigm_column"]] if "paradigm_column" in columns else own_name
        for name, values in groups.items():
            values += (SAME_GROUP.get(value, value) for value in map(str, table.columns[name]))
    first = Path(sources[0]) if Path(sources[0]).is_dir() else table_files(sources)[0]
    return Pairs(first.resolve().stem if first.is_dir() else format_of(first)[0], good, bad, paradigms, groups)


def measure(name: str, pairs: Pairs, arguments: EvaluateArguments) -> Result:
    """Score both sentences of all pairs, and count.

    Raises:
        UserError: the model cannot tell probabilities of text, or a sentence is too long for it.
    """
    model = open_language_model(name, backend=arguments.backend, trust_remote_code=arguments.trust_remote_code)
    if arguments.within_word and model.backend == "causal":
        raise UserError(f"within_word is for masked models, which hide words; {name} is read from left to right")
    if arguments.within_word and not model.tokenizer.is_fast:
        raise UserError(
            f"within_word needs to know words, which the tokenizer of {name} does not tell (no tokenizer.json)"
        )
    scores = text_scores(
        model,
        [*pairs.good, *pairs.bad],
        within_word=arguments.within_word,
        batch_tokens=arguments.batch_tokens,
        words=name,
    )
    good, bad = scores.reshape(2, -1)
    return result(model, pairs, good, bad)


def result(model: LanguageModel, pairs: Pairs, good: NDArray[np.float64], bad: NDArray[np.float64]) -> Result:
    """Accuracies and predictions from the scores of the good and of the bad sentences, each (pairs,)."""
    tied = np.abs(good - bad) <= TIE
    right = (good > bad) | tied
    half = np.where(tied, 0.5, right)
    accuracies = _percent_by(pairs.paradigms, right)
    halves = _percent_by(pairs.paradigms, half)
    accuracy, half_credit = (float(np.mean(list(each.values()))) for each in (accuracies, halves))
    groups = {name: _percent_by(column, right) for name, column in pairs.groups.items()}
    figures: dict[str, Any] = {
        "accuracy": accuracy,
        "accuracy_ties_half": half_credit,
        "ties": int(tied.sum()),
        "pairs": len(pairs),
        "backend": model.backend,
        "paradigms": accuracies,
        **groups,
    }
    rows: dict[str, float | None] = {
        **accuracies,
        f"mean of {len(accuracies)} paradigms": accuracy,
        "the same, a tie half right": half_credit,
        "ties, percent of pairs": 100 * float(tied.mean()),
    }
    folder = f"{Path(model.name).resolve().stem}/main/zero_shot/{model.backend}/blimp/{pairs.name}"
    return Result(
        figures=figures,
        rows=rows,
        bars=accuracies | {"mean": accuracy},
        axis="accuracy (%)",
        baseline=("guessing", 50.0),
        files={
            f"{folder}/predictions.json": _predictions(pairs, right),
            f"{folder}/scores.jsonl": _scores(pairs, good, bad),
        },
    )


def _percent_by(names: Sequence[str], right: NDArray[Any]) -> dict[str, float]:
    """The share of right answers, in percent, among the pairs of each name, in the order in which names first occur."""
    distinct = {name: number for number, name in enumerate(dict.fromkeys(names))}
    numbers = np.fromiter((distinct[name] for name in names), np.int64, len(names))
    shares = 100 * np.bincount(numbers, weights=right) / np.bincount(numbers)
    return dict(zip(distinct, shares.tolist(), strict=True))


def _predictions(pairs: Pairs, right: NDArray[np.bool_]) -> str:
    """The chosen sentences, as the BabyLM pipeline writes and collects them."""
    chosen: dict[str, dict[str, list[dict[str, str]]]] = {}
    for paradigm, good, bad, is_right in zip(pairs.paradigms, pairs.good, pairs.bad, right.tolist(), strict=True):
        predictions = chosen.setdefault(paradigm, {"predictions": []})["predictions"]
        predictions.append({"id": f"{paradigm}_{len(predictions)}", "pred": good if is_right else bad})
    return json.dumps(chosen)


def _scores(pairs: Pairs, good: NDArray[np.float64], bad: NDArray[np.float64]) -> str:
    """The scores of every pair, a line each."""
    lines = zip(pairs.paradigms, pairs.good, pairs.bad, good.tolist(), bad.tolist(), strict=True)
    names = ("paradigm", "good", "bad", "good_score", "bad_score")
    return "".join(json.dumps(dict(zip(names, line, strict=True)), ensure_ascii=False) + "\n" for line in lines)
