"""What an evaluation can be told: the flags of `hf-minibert evaluate`."""

from dataclasses import dataclass
from typing import Literal

from hf_minibert.data.sources import DocumentUnit
from hf_minibert.errors import UserError

SuiteName = Literal["blimp", "likelihood", "sts", "probe", "neighbours", "attention"]
AttentionKind = Literal["encoder", "decoder", "cross"]
"""Whose attention: an encoder's, a decoder's, or a decoder's to an encoder."""
PoolingName = Literal["mean", "cls", "max", "last"]
Backend = Literal["mlm", "mntp", "causal"]
"""How a model tells the probability of a token: see `hf_minibert.evaluation.scores`."""


@dataclass(kw_only=True)
class LanguageModelArguments:
    """Language models (suites blimp and likelihood)."""

    backend: Backend | None = None
    """How to read the model. mlm: one token is hidden at a time, and read at its place; mntp: read at the place before
    it, as hybrid models learn it; causal: from left to right. Default: what the model was made for."""


@dataclass(kw_only=True)
class LikelihoodArguments:
    """Likelihood of texts (suite likelihood)."""

    document: DocumentUnit = "file"
    """What is one text of a .txt or .md file."""
    window: int | None = None
    """Tokens that the model reads at once. Default: as many as it can, at most 1,024."""
    stride: int | None = None
    """How far a window begins behind the one before it: a causal model sees at least window - stride tokens before each
    that it predicts. Default: half the window."""
    max_documents: int | None = None
    """Take only the first so many texts."""


@dataclass(kw_only=True)
class PairArguments:
    """Minimal pairs (suite blimp)."""

    good_column: str = "sentence_good"
    """The column of the acceptable sentence."""
    bad_column: str = "sentence_bad"
    """The column of the unacceptable sentence."""
    paradigm_column: str | None = None
    """The column that says which paradigm a pair belongs to. Default: UID, or where there is none, the file's name."""
    within_word: bool = False
    """When a token is hidden, also hide the rest of its word (Kauf and Ivanova 2023), so that one half of a long word
    does not give the other away. Only for mlm and mntp; the figures of the field are without it."""
    max_pairs: int | None = None
    """Take only the first so many pairs of each paradigm, for a quick look."""


@dataclass(kw_only=True)
class VectorArguments:
    """Vectors of texts (suites sts, probe and neighbours)."""

    pooling: PoolingName = "mean"
    """How the states of a text's tokens become one vector: their mean or maximum, or the first token (cls), or the
    last."""
    layer: str | None = None
    """The layer of the states: 0 is the embeddings; negative numbers count from the end; average is the mean of them
    all. Default: the last."""

    def chosen_layer(self) -> int | Literal["average"] | None:
        """The layer as `encode` takes it.

        Raises:
            UserError: it is neither a number nor "average".
        """
        if self.layer is None or self.layer == "average":
            return self.layer  # type: ignore[return-value]  # mypy does not see the literal
        try:
            return int(self.layer)
        except ValueError:
            raise UserError(f"layer must be a number or average, got {self.layer!r}") from None


@dataclass(kw_only=True)
class SimilarityArguments:
    """Similarity of sentences (suite sts)."""

    first_column: str = "sentence1"
    """The column of the first sentence."""
    second_column: str = "sentence2"
    """The column of the second sentence."""
    score_column: str = "score"
    """The column of people's scores, of any scale."""


@dataclass(kw_only=True)
class TextArguments:
    """Texts (suites likelihood, probe and neighbours)."""

    text_column: str = "text"
    """The column of the texts, in files that have columns."""


@dataclass(kw_only=True)
class ProbeArguments:
    """A linear probe (suite probe)."""

    label_column: str = "label"
    """The column of the labels."""


@dataclass(kw_only=True)
class QueryArguments:
    """Texts on the command line (suites neighbours and attention)."""

    text: list[str] | None = None
    """The texts: those whose neighbours are searched, or whose attention is drawn."""


@dataclass(kw_only=True)
class NeighbourArguments:
    """Nearest neighbours (suite neighbours)."""

    num_neighbours: int = 10
    """How many to show of each text."""


@dataclass(kw_only=True)
class AttentionArguments:
    """Pictures of attention (suite attention)."""

    target: str | None = None
    """What the decoder beside an encoder reads. Default: what the model writes."""
    attention_kind: AttentionKind | None = None
    """Of an encoder with a decoder, whose attention. Default: cross, that of the decoder to the encoder."""
    attention_layer: int | None = None
    """The layer to draw, from 0. Default: the last."""
    attention_head: int | None = None
    """Draw this head large, from 0. Default: all heads of the layer, side by side."""


@dataclass(kw_only=True)
class EvaluateArguments(
    AttentionArguments,
    NeighbourArguments,
    QueryArguments,
    ProbeArguments,
    SimilarityArguments,
    VectorArguments,
    TextArguments,
    LikelihoodArguments,
    PairArguments,
    LanguageModelArguments,
):
    """Measure how good a model is, or several side by side: a table, a chart, and figures in results.json.

    The model may be ours or a stock one; nothing is trained. The data sets are files that you name.
    """

    suite: SuiteName
    """What to measure. blimp: of two sentences that differ little, does the model prefer the acceptable one?
    likelihood: how well does it predict texts, in bits per byte, or in masked tokens and the order of segments? sts: do
    the cosines of its vectors rank pairs of sentences as people do? probe: how much of the labels does a logistic
    regression read from its vectors? neighbours: which texts of a file does it take to be alike? attention: a picture
    of which tokens its heads look at."""
    model_name_or_path: str | None = None
    """Folder of a model, its name on the Hub, or minibert-tiny or minigpt-tiny, which travel with this package."""
    compare: list[str] | None = None
    """Several models, in place of one: one table, one chart."""
    dataset: list[str] | None = None
    """Files, also compressed, or folders of them: .txt .md .jsonl .parquet for likelihood, tables (.jsonl .json .csv
    .tsv .parquet) for the others."""
    output_dir: str
    """Folder for results.json, the chart and the predictions; an earlier evaluation there is replaced."""
    trust_remote_code: bool = False
    """Run the code that a model brings with it. Without this, such a model is refused."""
    batch_tokens: int | None = None
    """Tokens that are computed at once. Default: what suits the suite and the device."""

    def __post_init__(self) -> None:
        if (self.model_name_or_path is None) == (self.compare is None):
            raise UserError("give one of --model_name_or_path MODEL and --compare MODEL MODEL ...")
        for name in self.model_names:
            if self.model_names.count(name) > 1:
                raise UserError(f"compare names {name} twice; give each model once")
        for name in ("num_neighbours", "batch_tokens", "max_pairs", "max_documents", "window", "stride"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be 1 or more, got {value}")

    @property
    def model_names(self) -> list[str]:
        """The models, as the user names them."""
        return self.compare or [self.model_name_or_path or ""]
