"""MiniBERT and other masked models in EleutherAI's lm-evaluation-harness, which has no scorer for them.

    python -m hf_minibert.evaluation.lm_eval_model --model hf-mlm --model_args pretrained=minibert-tiny \
        --tasks minimal_pairs --include_path FOLDER

is lm-eval's own command, in which a model `hf-mlm` is known and checkpoints of ours open without code from their
folder; `--model hf` reads a MiniGPT. `scripts/configs/minimal_pairs.yaml` is a task for a file of one's own.
"""

import importlib
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any

from hf_minibert.errors import UserError, needs_extra


@cache
def register() -> type[Any]:
    """Make `hf-mlm` a model that lm-eval knows, and return its class.

    Raises:
        UserError: lm-eval is not installed.
    """
    with needs_extra("lm-eval"):
        importlib.import_module("lm_eval.models")  # its own, which it leaves out where it knows another already
        from lm_eval.api.model import LM
        from lm_eval.api.registry import register_model

    from hf_minibert.evaluation.opening import open_language_model
    from hf_minibert.evaluation.scores import spell, token_scores

    @register_model("hf-mlm")
    class MaskedScorer(LM):  # type: ignore[misc]  # lm-eval publishes no types
        """Log-probabilities of continuations, as `hf-minibert evaluate --suite blimp` computes those of sentences."""

        def __init__(
            self,
            pretrained: str,
            backend: str | None = None,
            trust_remote_code: bool = False,
            batch_tokens: int | None = None,
            **lm_eval: Any,
        ) -> None:
            """`lm_eval`: what lm-eval gives to every model; batches are cut by tokens, so its sizes are not used."""
            super().__init__()
            known = {"batch_size", "max_batch_size", "device"}
            if unknown := sorted(set(lm_eval) - known):
                raise UserError(f"hf-mlm does not take {', '.join(unknown)} among --model_args")
            if backend not in (None, "mlm", "mntp", "causal"):
                raise UserError(f"backend must be mlm, mntp or causal, got {backend!r}")
            self.language_model = open_language_model(
                pretrained,
                backend=backend,  # type: ignore[arg-type]  # checked just now
                trust_remote_code=trust_remote_code,
            )
            self.batch_tokens = batch_tokens

        def loglikelihood(self, requests: Iterable[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            """The log-probability of each continuation of a context, and whether all its tokens are the likeliest."""
            pairs = [request.args for request in requests]
            texts = [context + continuation for context, continuation in pairs]
            spelt = spell(self.language_model, texts, begins=[len(context) for context, _ in pairs])
            scores, best = token_scores(
                self.language_model,
                spelt,
                batch_tokens=self.batch_tokens,
                words=None if disable_tqdm else "hf-mlm",
            )
            return [
                (float(of_tokens.sum(dtype="float64")), bool(are_best.all()))
                for of_tokens, are_best in zip(scores, best, strict=True)
            ]

        def loglikelihood_rolling(self, requests: Iterable[Any], disable_tqdm: bool = False) -> list[float]:
            """The log-probability of each text, which must be no longer than the model reads."""
            texts = [request.args[0] for request in requests]
            spelt = spell(self.language_model, texts)
            words = None if disable_tqdm else "hf-mlm"
            scores, _ = token_scores(self.language_model, spelt, batch_tokens=self.batch_tokens, words=words)
            return [float(each.sum(dtype="float64")) for each in scores]

        def generate_until(self, requests: Iterable[Any], disable_tqdm: bool = False) -> list[str]:
            """Refused: a masked model does not write."""
            del requests, disable_tqdm
            raise UserError("hf-mlm scores texts and does not write any; for a MiniGPT, give --model hf")

    return MaskedScorer


def main() -> None:
    """lm-eval's command line; a mistake is one line, and the status 2."""
    try:
        register()
        importlib.import_module("hf_minibert.models")  # so that --model hf knows ours, too
        importlib.import_module("lm_eval.__main__").cli_evaluate()
    except UserError as error:
        sys.stderr.write(f"lm_eval_model: error: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
