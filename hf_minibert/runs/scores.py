"""The figures that runs report: what each is called, how it is shown, and which way is better."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Score:
    """A figure, by its name in `results.json` without the split."""

    label: str
    """What people call it."""
    is_share: bool = True
    """Whether it is a share of one, which people read as a percentage."""
    lower_is_better: bool = False
    hub_name: str | None = None
    """What the Hub calls the metric, where that is another name."""

    def shown(self, value: float) -> str:
        """A value for people: 91.2%, or 2.345."""
        return f"{value:.1%}" if self.is_share else f"{value:.4g}"


SCORES: dict[str, Score] = {
    "loss": Score(label="loss (nats)", is_share=False, lower_is_better=True),
    "mlm_loss": Score(label="masked-token loss (nats)", is_share=False, lower_is_better=True),
    "clm_loss": Score(label="next-token loss (nats)", is_share=False, lower_is_better=True),
    "bits_per_byte": Score(label="bits per byte", is_share=False, lower_is_better=True),
    "perplexity": Score(label="perplexity", is_share=False, lower_is_better=True),
    "accuracy": Score(label="accuracy"),
    "precision": Score(label="precision"),
    "recall": Score(label="recall"),
    "f1": Score(label="F1"),
    "macro_f1": Score(label="F1, the mean over all labels (macro)", hub_name="f1"),
    "positive_f1": Score(label="F1 of the positive label, the second", hub_name="f1"),
    "micro_f1": Score(label="F1 over all texts and labels (micro)", hub_name="f1"),
    "exact_match": Score(label="exact match"),
    "answerable_f1": Score(label="F1 of questions that have an answer", hub_name="f1"),
    "answerable_exact_match": Score(label="exact match of questions that have an answer", hub_name="exact_match"),
    "unanswerable_accuracy": Score(label="accuracy of questions that have no answer", hub_name="accuracy"),
    "hamming_loss": Score(label="Hamming loss", lower_is_better=True),
    "pearson": Score(label="Pearson correlation", is_share=False, hub_name="pearsonr"),
    "spearman": Score(label="Spearman correlation", is_share=False, hub_name="spearmanr"),
    "mse": Score(label="mean squared error", is_share=False, lower_is_better=True),
    "bleu": Score(label="BLEU", is_share=False),
    "lowercase_bleu": Score(label="BLEU, lower-cased", is_share=False, hub_name="bleu"),
    "chrf": Score(label="chrF", is_share=False),
    "matthews_correlation": Score(label="Matthews correlation", is_share=False),
}


def score_of(metric: str) -> Score:
    """What is known of a metric; of an unknown one, its name."""
    return SCORES.get(metric) or Score(label=metric.replace("_", " "), is_share=False)


def is_better(metric: str, value: float, other: float) -> bool:
    """Whether the first of two values of a metric is better."""
    return value < other if score_of(metric).lower_is_better else value > other
