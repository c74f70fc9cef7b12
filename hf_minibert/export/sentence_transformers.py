"""A checkpoint as a sentence-transformers model: the stock encoder, a pooling and a normalisation.

`SentenceTransformer(folder)` opens it without this package (Reimers and Gurevych 2019, arXiv:1908.10084).
"""

from typing import Any, cast

import torch
import transformers
from tokenizers import processors
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_minibert import MiniBertModel
from hf_minibert.errors import UserError, needs_extra
from hf_minibert.export.convert import SAMPLE, TOLERANCE, has_causal_mask, is_ours, open_checkpoint
from hf_minibert.export.folder import describe, exported_folder, shown_name
from hf_minibert.export.stock import POOLING, has_pooler, to_stock
from hf_minibert.tokenization import save_tokenizer

TEXTS = (" ".join(SAMPLE), SAMPLE[1], "")


def export(
    name_or_path: str,
    output_dir: str,
    *,
    to: str | None = None,  # noqa: ARG001
    pooling: str | None = None,
    normalize: bool = True,
) -> dict[str, Any]:
    """Write a sentence-transformers folder. Unchanged files of an earlier export there are replaced.

    Args:
        name_or_path: a checkpoint of ours, or of a stock class that has a counterpart here.
        output_dir: the folder to write.
        to: not needed; all targets take it.
        pooling: `cls`, `mean`, `max` or `lasttoken`; default, that of the checkpoint's classifier, or `mean`.
        normalize: whether embeddings get length 1.

    Returns:
        What `export.json` says.

    Raises:
        UserError: the library is missing, the checkpoint cannot be opened or has no stock class, or the folder holds
            something else.
    """
    with needs_extra("sentence-transformers"):
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    with exported_folder(name_or_path, output_dir, last="modules.json") as folder:
        model, tokenizer = open_checkpoint(name_or_path)
        pooling = pooling or own_pooling(model) or "mean"
        encoder = cast(PreTrainedModel, model.base_model)
        if is_ours(encoder):
            encoder = to_stock(without_pooler(encoder), mask_token_id=tokenizer.mask_token_id)
        if has_causal_mask(encoder):
            tokenizer = with_beginning(tokenizer)
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                raise UserError(f"the tokenizer of {name_or_path} has no token to pad texts with; give it a pad_token")
            tokenizer.pad_token = tokenizer.eos_token  # which attention masks
        staged = folder / "stock"  # a Transformer module is made of a folder
        encoder.float().save_pretrained(staged)  # it opens in the type it is saved in, and would train in it
        save_tokenizer(tokenizer, staged)
        modules = [Transformer(str(staged)), Pooling(encoder.config.hidden_size, pooling)]
        modules += [Normalize()] if normalize else []
        SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
        save_tokenizer(tokenizer, folder)
        for path in staged.iterdir():
            path.unlink()
        staged.rmdir()

        opened = SentenceTransformer(str(folder), device="cpu")
        actual = opened.encode(list(TEXTS), convert_to_tensor=True)
        expected = embeddings(model, tokenizer, pooling, normalize)
        difference = float((actual - expected).abs().max() / expected.abs().max().clamp(min=1))
        if not difference <= TOLERANCE:
            raise UserError(
                f"the SentenceTransformer and the {type(model).__name__} differ by {difference:.1e} on sample texts, "
                "which should not be; nothing was written"
            )
        record = {
            "model": shown_name(name_or_path),
            "from": type(model).__name__,
            "to": f"SentenceTransformer of a {type(encoder).__name__}",
            "pooling": pooling,
            "normalize": normalize,
            "sample": TEXTS,
            "largest_difference": difference,
            "transformers_version": transformers.__version__,
        }
        describe(
            folder,
            name_or_path,
            record,
            opening(record, '"."'),
            lost=f"A text's vector is the {pooling} of its tokens' states{', at length 1' if normalize else ''}.",
            library="sentence-transformers",
            tags=("sentence-transformers", "sentence-similarity", "feature-extraction"),
            pipeline="sentence-similarity",
        )
    return record


def own_pooling(model: PreTrainedModel) -> str | None:
    """The pooling that a checkpoint's classifier was trained with, of each text; None if it has no such classifier."""
    if not type(model).__name__.endswith("ForSequenceClassification"):
        return None
    if has_causal_mask(model):
        return "lasttoken"
    if getattr(model.config, "compares_texts", False):
        return "mean"
    own = getattr(model.config, "classifier_pooling", "cls")  # BERT has no other
    return {theirs: ours for ours, theirs in POOLING.items()}.get(own, own)


def without_pooler(model: PreTrainedModel) -> PreTrainedModel:
    """The model itself; of a MiniBERT with a pooler, which no embedding uses, a copy without it."""
    if not (isinstance(model, MiniBertModel) and has_pooler(model)):
        return model
    bare = MiniBertModel(type(model.config)(**model.config.to_dict() | {"use_pooler": False}))
    bare.load_state_dict({name: weight for name, weight in model.state_dict().items() if "pooler." not in name})
    nn.Module.to(bare, dtype=model.dtype)
    return bare


def with_beginning(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A decoder's tokenizer that begins every text as documents begin in pre-training, so that none is empty."""
    assert isinstance(tokenizer, transformers.PreTrainedTokenizerFast)
    if tokenizer.bos_token is None or tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]:
        return tokenizer
    backend = tokenizer.backend_tokenizer
    begin = processors.TemplateProcessing(
        single=f"{tokenizer.bos_token}:0 $A:0",
        pair=f"{tokenizer.bos_token}:0 $A:0 $B:0",
        special_tokens=[(tokenizer.bos_token, tokenizer.bos_token_id)],
    )
    steps = [backend.post_processor, begin] if backend.post_processor is not None else [begin]
    backend.post_processor = processors.Sequence(steps)
    return tokenizer


@torch.no_grad()
def embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pooling: str, normalize: bool) -> Tensor:
    """The embeddings of `TEXTS` by the checkpoint itself, one text at a time, in float32."""
    rows = []
    for text in TEXTS:
        inputs = tokenizer(text, truncation=True, max_length=model.config.max_position_embeddings, return_tensors="pt")
        (states,) = model.base_model.float().eval()(**inputs).last_hidden_state
        pooled = {"cls": states[0], "lasttoken": states[-1], "mean": states.mean(0), "max": states.max(0).values}
        rows.append(pooled[pooling])
    return F.normalize(torch.stack(rows)) if normalize else torch.stack(rows)


def opening(record: dict[str, Any], name: str) -> str:  # noqa: ARG001
    """Python code that opens an export; `name` is the Python expression for its folder."""
    return f"""from sentence_transformers import SentenceTransformer

model = SentenceTransformer({name})
vectors = model.encode(["The cat sat on the mat.", "A cat was sitting there."])
print(model.similarity(vectors, vectors))
"""
