"""What a fine-tuning starts from: the weights of a checkpoint, or new ones, with a tokenizer."""

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import AutoConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hf_minibert.assets import model_folder
from hf_minibert.errors import UserError
from hf_minibert.export.convert import CLASSES, open_checkpoint
from hf_minibert.export.stock import from_stock
from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.models.configuration_minibert import COMPARING, MiniBertConfig
from hf_minibert.presets import Config, build_config, load_config, load_pretrained
from hf_minibert.tokenization import OWN_TOKENIZER, adapt_tokenizer, ends_of_text, load_tokenizer


@dataclass(frozen=True)
class Start:
    """Weights to begin with, not yet loaded."""

    name: str
    """What people call it: the name of the folder, of the model on the Hub, or of the preset."""
    hub_id: str | None
    """The name on the Hub, if it comes from there."""
    config: Config
    tokenizer: PreTrainedTokenizerFast
    source: str | None
    """The folder or Hub name of the weights; None for new ones."""
    is_converted: bool = False
    """Whether `source` was made of a stock checkpoint."""

    def model(self, auto_class: Any, **settings: Any) -> tuple[Any, set[str]]:
        """A model in float32, and the names of its new weights; none where all are new, which learn alike.

        Args:
            auto_class: one of transformers' Auto classes.
            settings: fields of the configuration, and the attention's implementation.

        Raises:
            UserError: see `load_pretrained`.
        """
        if self.source is not None:
            settings = {"max_position_embeddings": self.config.max_position_embeddings} | settings
            # float32 also for a checkpoint in bfloat16, whose rounding would lose short steps
            return load_pretrained(auto_class, self.source, dtype=torch.float32, **settings)
        attention = {"attn_implementation": settings.pop("attn_implementation", None)}
        config = type(self.config).from_dict(self.config.to_dict() | settings)
        return auto_class.from_config(config, **attention), set()

    def make_room(self, length: int) -> None:
        """Let the model take rows of so many tokens, if its positions are rotary: computed, and not weights.

        Those that are scaled (`rope_type`) depend on how many there are, and stay. The room ends at a multiple of 64,
        as batches of few lengths need; the tokenizer cuts texts at `length`.
        """
        config, rope = self.config, self.config.rope_parameters or {}
        is_plain = config.position_embedding_type == "rotary" and rope.get("rope_type") == "default"
        if is_plain and length > config.max_position_embeddings:
            config.max_position_embeddings = -(-length // 64) * 64
            self.tokenizer.model_max_length = length

    def keep_pairs_apart(self) -> None:
        """Let the token that ends a text stand between two texts, where the tokenizer puts nothing between them.

        So decoders read pairs (Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training",
        section 3.3), and whoever opens the saved tokenizer reads them alike.
        """
        places = self.tokenizer("a", "a").sequence_ids(0)
        if places[places.index(1) - 1] != 0:
            return
        if self.tokenizer.num_special_tokens_to_add(pair=True):
            raise UserError(
                f"the tokenizer of {self.name} puts tokens around two texts, but none between them; give another with "
                "--tokenizer_name_or_path"
            )
        backend = self.tokenizer.backend_tokenizer
        end = ends_of_text(self.tokenizer)[1]
        name = self.tokenizer.convert_ids_to_tokens(end)
        template = processors.TemplateProcessing(
            single="$A:0", pair=f"$A:0 {name}:0 $B:0", special_tokens=[(name, end)]
        )
        steps = [] if backend.post_processor is None else [backend.post_processor]
        backend.post_processor = processors.Sequence([*steps, template])


def from_checkpoint(name_or_path: str, tokenizer: str | None = None) -> Start:
    """A checkpoint of ours, or a stock BERT, EuroBERT, GPT-2 or Llama, which is converted.

    Args:
        name_or_path: a folder, a reference checkpoint's name, or a name on the Hub.
        tokenizer: the tokenizer's folder or name on the Hub; default, the checkpoint's own.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or has no counterpart among our models.
    """
    source = model_folder(name_or_path)
    is_folder = Path(source).is_dir()
    name, hub_id = (Path(source).resolve().name, None) if is_folder else (source, source)
    weights = source
    if _is_stock(source):
        stock, own = open_checkpoint(source)
        ours = from_stock(stock)
        weights = tempfile.mkdtemp()
        ours.save_pretrained(weights)
        config = load_config(weights)
        chosen = load_tokenizer(tokenizer) if tokenizer else _able_to_pad(own, config, source)
    else:
        config = load_config(source)  # a mistake in the name shows best here
        chosen = load_tokenizer(tokenizer or source)
    chosen.padding_side = "right"  # from the beginning of rows, the places of answers are counted
    _check_vocabulary(chosen, config, name, tokenizer)
    start = Start(name, hub_id, config, chosen, weights, weights != source)
    if start.is_converted:
        weakref.finalize(start, shutil.rmtree, weights)
    return start


def from_preset(model: str, tokenizer: str | None = None) -> Start:
    """A named model with new weights.

    Args:
        model: a name of `hf_minibert.presets.MODELS`.
        tokenizer: the tokenizer's folder or name on the Hub; default, the package's.

    Raises:
        UserError: there is no such model or tokenizer.
    """
    chosen = load_tokenizer(tokenizer or OWN_TOKENIZER)
    config = build_config(
        model,
        "modern",
        vocab_size=len(chosen),
        pad_token_id=chosen.pad_token_id,
        bos_token_id=chosen.cls_token_id,
        eos_token_id=chosen.sep_token_id,
    )
    adapted = adapt_tokenizer(
        chosen,
        model_type="minibert" if isinstance(config, MiniBertConfig) else "minigpt",
        uses_token_types=False,
        model_max_length=config.max_position_embeddings,
    )
    return Start(model, None, config, adapted, None)


def end_between(fields: Mapping[str, Any], start: Start) -> str | None:
    """The token that ends the first of two texts that are compared; None where a model reads both as one.

    Args:
        fields: what `pooling_fields` gave.
        start: whose tokenizer reads them.
    """
    if fields.get("classifier_pooling") not in COMPARING:
        return None
    assert isinstance(start.config.eos_token_id, int)  # or the configuration would not hold
    return str(start.tokenizer.convert_ids_to_tokens(start.config.eos_token_id))


def early_ends(firsts: Iterable[str], split: str, end: str | None) -> list[str]:
    """A line if some of the first texts hold what `end_between` gave, and so would end there."""
    number = sum(end in text for text in firsts) if end is not None else 0
    words = f"{number:,} first texts hold {end}, which ends a text: what stands behind it is read as the second text"
    return [f"{split}: {words}"] if number else []


POOLED = ("ForSequenceClassification", "ForMultipleChoice")
"""How the names of heads end that classify by one vector."""


def pooling_fields(arguments: FinetuneArguments, start: Start, *, is_pair: bool) -> dict[str, Any]:
    """How a text, or a pair of texts, becomes one vector, in the configuration of the model.

    Raises:
        UserError: the model has one way only, and another is asked for; or one that compares two texts is, and there
            are no pairs, or no token ends the first text.
    """
    config = start.config
    if isinstance(config, MiniBertConfig):
        knows_ends = config.eos_token_id in start.tokenizer("one", "two").input_ids[1:-1]
        asked, compares = arguments.classifier_pooling, arguments.classifier_pooling in COMPARING
        if compares and not is_pair:
            raise UserError(
                f"--classifier_pooling {asked} is for two texts; name the second one's column (--text_pair_column), or "
                "use cls, mean or max"
            )
        if compares and not knows_ends:
            raise UserError(
                f"--classifier_pooling {asked} needs a tokenizer that ends the first text with the model's "
                f"eos_token_id, {config.eos_token_id}, and that of {start.name} does not; use cls, mean or max"
            )
        is_classifier = any(each.endswith(POOLED) for each in config.architectures or ())
        usual = "siamese" if is_pair and knows_ends else "mean"
        if is_classifier or config.norm_placement == "post":
            usual = config.classifier_pooling
        if usual in COMPARING and not (is_pair and knows_ends):  # of a model that compared two texts
            usual = "mean"
        return {"classifier_pooling": asked or usual}
    if arguments.classifier_pooling is not None:
        raise UserError("--classifier_pooling is for MiniBERT; MiniGPT classifies by its last token")
    return {}


def _is_stock(source: str) -> bool:
    """Whether a checkpoint holds a stock class that has a counterpart."""
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError):
        return False  # `load_config` says why
    names = config.architectures or [""]
    return names[0] in CLASSES and not names[0].startswith("Mini")


def _able_to_pad(tokenizer: PreTrainedTokenizerBase, config: Config, source: str) -> PreTrainedTokenizerFast:
    """A stock tokenizer; GPT-2's and Llama's pad with the token that ends a text, which attention masks."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(
            f"the tokenizer of {source} has no tokenizer.json; convert it, or give --tokenizer_name_or_path"
        )
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"the tokenizer of {source} has no token to pad with; give --tokenizer_name_or_path")
        tokenizer.pad_token = tokenizer.eos_token
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    return tokenizer


def _check_vocabulary(tokenizer: PreTrainedTokenizerFast, config: Config, name: str, given: str | None) -> None:
    if len(tokenizer) > config.vocab_size:
        whose = f"tokenizer_name_or_path {given}" if given else f"the tokenizer of {name}"
        raise UserError(
            f"{whose} has {len(tokenizer):,} entries, but the model {name} knows {config.vocab_size:,}; give the one "
            "that the model was trained with"
        )
