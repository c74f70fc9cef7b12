"""The suites of `hf-minibert evaluate`: one row of `SUITES` each. Importing this loads no torch."""

import dataclasses
import importlib
from dataclasses import dataclass, field
from typing import Any

from hf_minibert.errors import UserError
from hf_minibert.evaluation.arguments import (
    AttentionArguments,
    EvaluateArguments,
    LanguageModelArguments,
    LikelihoodArguments,
    NeighbourArguments,
    PairArguments,
    ProbeArguments,
    QueryArguments,
    SimilarityArguments,
    SuiteName,
    TextArguments,
    VectorArguments,
)


@dataclass(frozen=True)
class Suite:
    """Something to measure of a model."""

    words: str
    """What people call it."""
    module: str
    """The module that measures it. Its `read(arguments)` reads and checks what the user named, before any model is
    opened, and returns that and the files that hold it; its `measure(name, data, arguments)` opens a model and returns
    a `Result`."""
    flags: tuple[type[Any], ...] = ()
    """The groups of flags that it takes, beside those of all suites."""
    needs_dataset: bool = True

    def load(self) -> Any:
        """The module."""
        return importlib.import_module(self.module)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a suite has found out about one model."""

    figures: dict[str, Any]
    """What `results.json` holds of it."""
    rows: dict[str, float | None]
    """The printed table: a number for each label; None for a line that only some models have."""
    bars: dict[str, float]
    """The chart: a number for each label."""
    axis: str
    """What the chart's numbers are, with their unit."""
    baseline: tuple[str, float] | None = None
    """A line in the chart to compare with: what the legend calls it, and where it is."""
    digits: int = 2
    """Decimals in the printed table."""
    files: dict[str, str | bytes] = field(default_factory=dict)
    """More files to write: their content by relative path."""


_PACKAGE = "hf_minibert.evaluation"
SUITES: dict[SuiteName, Suite] = {
    "blimp": Suite("minimal pairs", f"{_PACKAGE}.minimal_pairs", flags=(PairArguments, LanguageModelArguments)),
    "likelihood": Suite(
        "likelihood of texts",
        f"{_PACKAGE}.likelihood",
        flags=(LikelihoodArguments, TextArguments, LanguageModelArguments),
    ),
    "sts": Suite("similarity of sentences", f"{_PACKAGE}.sts", flags=(SimilarityArguments, VectorArguments)),
    "probe": Suite("a linear probe", f"{_PACKAGE}.probe", flags=(ProbeArguments, TextArguments, VectorArguments)),
    "neighbours": Suite(
        "nearest neighbours",
        f"{_PACKAGE}.neighbours",
        flags=(NeighbourArguments, QueryArguments, TextArguments, VectorArguments),
    ),
    "attention": Suite(
        "pictures of attention",
        f"{_PACKAGE}.attention",
        flags=(AttentionArguments, QueryArguments),
        needs_dataset=False,
    ),
}


def choose_suite(arguments: EvaluateArguments) -> Suite:
    """The suite that is asked for.

    Raises:
        UserError: it lacks a data set, or a flag is given that it does not take.
    """
    suite = SUITES[arguments.suite]
    if suite.needs_dataset and not arguments.dataset:
        raise UserError(f"suite {arguments.suite} needs --dataset FILE ...")
    for each in dataclasses.fields(arguments):
        is_taken = _takes(suite, each.name) or each.name in EvaluateArguments.__annotations__
        if not is_taken and getattr(arguments, each.name) != each.default:
            takers = [name for name, other in SUITES.items() if _takes(other, each.name)]
            raise UserError(f"{each.name} is for suite {' and '.join(takers)}, not for {arguments.suite}; leave it out")
    return suite


def _takes(suite: Suite, flag: str) -> bool:
    return any(flag in group.__annotations__ for group in suite.flags)
