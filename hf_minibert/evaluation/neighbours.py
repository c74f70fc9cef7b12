"""The nearest neighbours of a text in a file: which texts a model takes to be alike."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_minibert.data.tables import read_file, require_texts, table_files
from hf_minibert.errors import UserError
from hf_minibert.evaluation.arguments import EvaluateArguments
from hf_minibert.evaluation.representations import normalized, open_encoder
from hf_minibert.evaluation.suites import Result

TEXTS_AT_ONCE = 16_384
SHOWN = 60


@dataclass(frozen=True)
class Searched:
    """The texts to search, each once, where they stand, and the texts to search for."""

    texts: list[str]
    places: list[str]
    queries: list[str]


def read(arguments: EvaluateArguments) -> tuple[Searched, list[Path]]:
    """Read the texts; which files hold them.

    Raises:
        UserError: nothing is searched for, or a row holds no text.
    """
    if not arguments.text:
        raise UserError('suite neighbours needs --text "..." to search for')
    found: dict[str, str] = {}
    files = table_files(arguments.dataset or [])
    for path in files:
        table = read_file(path, {"text_column": arguments.text_column})
        require_texts(table, "text_column", arguments.text_column)
        for index, text in enumerate(table.columns[arguments.text_column]):
            found.setdefault(text, table.where(index))
    return Searched(list(found), list(found.values()), arguments.text), files


def measure(name: str, data: Searched, arguments: EvaluateArguments) -> Result:
    """The texts with the largest cosines, for each query."""
    encoder = open_encoder(name, arguments)
    way = [(arguments.pooling, arguments.chosen_layer())]
    queries = normalized(encoder.pooled(data.queries, way)[0])
    best: list[list[tuple[float, int]]] = [[] for _ in data.queries]
    for start in range(0, len(data.texts), TEXTS_AT_ONCE):
        vectors = normalized(encoder.pooled(data.texts[start : start + TEXTS_AT_ONCE], way)[0])
        for number, cosines in enumerate(queries @ vectors.T):
            nearest = np.argsort(-cosines, kind="stable")[: arguments.num_neighbours]
            best[number] += [(float(cosines[place]), start + int(place)) for place in nearest]
            best[number] = sorted(best[number], key=lambda one: (-one[0], one[1]))[: arguments.num_neighbours]
    rows: dict[str, float | None] = {}
    found = []
    for query, ranked in zip(data.queries, best, strict=True):
        neighbours = [{"text": data.texts[at], "cosine": cosine, "place": data.places[at]} for cosine, at in ranked]
        found.append({"text": query, "neighbours": neighbours})
        before = f"{_short(query)}: " if len(data.queries) > 1 else ""
        for rank, (cosine, at) in enumerate(ranked, start=1):
            rows[f"{before}{rank}. {_short(data.texts[at])}"] = cosine
    return Result(
        figures={
            "pooling": arguments.pooling,
            "layer": arguments.chosen_layer(),
            "texts": len(data.texts),
            "found": found,
        },
        rows=rows,
        bars={label: value for label, value in rows.items() if value is not None},
        axis="cosine",
        digits=3,
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 3]}..."
