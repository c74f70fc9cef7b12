"""Similarity of sentences without fine-tuning: whether the cosines of vectors rank pairs as people do.

Semantic textual similarity as Reimers and Gurevych (2019, arXiv:1908.10084) measure it: the Spearman correlation of
cosines with people's scores, in percent, here for every pooling, every layer, and the average of the layers.
"""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ConstantInputWarning, spearmanr
from tqdm import tqdm

from hf_minibert.data.labels import SECRET_LABEL
from hf_minibert.data.tables import read_file, require_texts, table_files
from hf_minibert.errors import UserError
from hf_minibert.evaluation.arguments import EvaluateArguments
from hf_minibert.evaluation.representations import Encoder, Layer, Pooling, normalized, open_encoder
from hf_minibert.evaluation.suites import Result

logger = logging.getLogger(__name__)

NUMBERS_AT_ONCE = 2**26
"""Of the vectors of all ways, a quarter of a gigabyte."""
Way = tuple[Pooling, Layer]


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs of sentences with people's scores of how alike they are."""

    first: list[str]
    second: list[str]
    scores: NDArray[np.float64]


def read(arguments: EvaluateArguments) -> tuple[ScoredPairs, list[Path]]:
    """Read the pairs of all files; which files these are.

    Raises:
        UserError: a sentence is no text, a score no number, or all scores are the same.
    """
    columns = {
        "first_column": arguments.first_column,
        "second_column": arguments.second_column,
        "score_column": arguments.score_column,
    }
    first, second, scores = list[str](), list[str](), list[float]()
    files, measured = table_files(arguments.dataset or []), list[Path]()
    for path in files:
        table = read_file(path, columns)
        for option in ("first_column", "second_column"):
            require_texts(table, option, columns[option])
        own = [
            _number(value, f"{table.where(index)}: {columns['score_column']}")
            for index, value in enumerate(table.columns[columns["score_column"]])
        ]
        if set(own) == {float(SECRET_LABEL)} and len(files) > 1:
            logger.warning("not measured: %s, whose scores are all %s", path, SECRET_LABEL)
            continue
        measured.append(path)
        scores += own
        first += table.columns[columns["first_column"]]
        second += table.columns[columns["second_column"]]
    if len(set(scores)) < 2:
        same = f"all {len(scores)} scores are {scores[0]}" if scores else f"all scores are {SECRET_LABEL}"
        raise UserError(f"{same}, so there is nothing to rank; give other pairs")
    return ScoredPairs(first, second, np.array(scores)), measured


def _number(value: Any, where: str) -> float:
    try:
        number = float("nan") if "_" in str(value) else float(value)  # 1_000 is a number in Python alone
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number) or isinstance(value, bool):
        raise UserError(f"{where} is {value!r}, but must be a number (score_column)")
    return number


def measure(name: str, pairs: ScoredPairs, arguments: EvaluateArguments) -> Result:
    """Correlations for every pooling and layer; the headline is that of the flags."""
    encoder = open_encoder(name, arguments)
    last = encoder.num_layers
    poolings: list[Pooling] = ["mean", "max", "last"] if encoder.is_decoder else ["mean", "cls", "max"]
    given = arguments.chosen_layer()
    layer: Layer = last if given is None else given if given == "average" else given % (last + 1)
    # All texts begin alike, so the embedding of the first token, and often of the last, says nothing.
    ways: list[Way] = [(pooling, each) for pooling in poolings for each in range(pooling in ("cls", "last"), last + 1)]
    ways += [(pooling, "average") for pooling in poolings]
    if (arguments.pooling, layer) not in ways:
        ways.append((arguments.pooling, layer))
    found = dict(zip(ways, correlations(encoder, pairs, ways), strict=True))
    headline = found[arguments.pooling, layer]
    rows: dict[str, float | None] = {_words((arguments.pooling, layer)): headline}
    rows |= {f"{pooling}, last layer": found[pooling, last] for pooling in poolings}
    rows |= {_words(way): value for way, value in found.items() if way[0] == arguments.pooling}
    return Result(
        figures={
            "spearman": headline,
            "pooling": arguments.pooling,
            "layer": layer,
            "pairs": len(pairs.first),
            "by_layer": {
                pooling: {str(each): value for (kind, each), value in found.items() if kind == pooling}
                for pooling in dict.fromkeys(kind for kind, _ in ways)
            },
        },
        rows=rows,
        bars={_words(way): value for way, value in found.items() if value is not None},
        axis="Spearman correlation with people's scores (%)",
    )


def _words(way: Way) -> str:
    pooling, layer = way
    return f"{pooling}, average of the layers" if layer == "average" else f"{pooling}, layer {layer}"


def correlations(encoder: Encoder, pairs: ScoredPairs, ways: Sequence[Way]) -> list[float | None]:
    """The Spearman correlation of cosines and scores, in percent, for each way; None where all cosines are equal."""
    cosines = np.empty((len(ways), len(pairs.first)), np.float32)
    at_once = max(1, NUMBERS_AT_ONCE // (2 * len(ways) * encoder.width))
    starts = range(0, len(pairs.first), at_once)
    for start in tqdm(starts, desc="pairs", delay=2.0, leave=False, disable=len(starts) < 2):
        part = slice(start, start + at_once)
        first, second = pairs.first[part], pairs.second[part]
        for number, vectors in enumerate(encoder.pooled([*first, *second], ways)):
            left, right = np.split(normalized(vectors), [len(first)])
            cosines[number, part] = (left * right).sum(axis=1)
    return [_spearman(each, pairs.scores) for each in cosines]


def _spearman(cosines: NDArray[np.float32], scores: NDArray[np.float64]) -> float | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)  # which is told by NaN
        found = 100 * float(spearmanr(cosines, scores).statistic)
    return found if np.isfinite(found) else None
