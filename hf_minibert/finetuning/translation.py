"""Translation: MiniBERT reads a text and MiniGPT writes it in another language, the original Transformer."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)
from transformers.trainer_utils import EvalLoopOutput

from hf_minibert.data.parallel import read_pairs
from hf_minibert.data.sources import BUILTIN
from hf_minibert.errors import UserError
from hf_minibert.evaluation.alignment import draw_alignment
from hf_minibert.evaluation.translate import bounds
from hf_minibert.evaluation.translations import TranslationMetrics, intervals, scorers, signatures
from hf_minibert.files import TARGET_TOKENIZER
from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.finetuning.durable import DurableTrainer
from hf_minibert.finetuning.start import Start, from_checkpoint
from hf_minibert.finetuning.task import Task, TaskData, Usage
from hf_minibert.models.configuration_encoder_decoder import MiniEncoderDecoderConfig
from hf_minibert.models.configuration_minibert import MiniBertConfig
from hf_minibert.models.configuration_minigpt import MiniGPTConfig
from hf_minibert.models.losses import IGNORE_INDEX
from hf_minibert.models.modeling_encoder_decoder import MiniEncoderDecoderModel
from hf_minibert.models.modeling_minigpt import MiniGPTForCausalLM
from hf_minibert.runs.muon import EMBEDDINGS_RATE, MuonWithAdamW, matrices_and_others
from hf_minibert.tokenization import ends_of_text, save_tokenizer

PICTURED_CHARACTERS = 50
"""About how long the sentence is whose attention is drawn."""
SHAPE = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim", "intermediate_size"),
    *("max_position_embeddings", "initializer_range", "pad_token_id"),
)
"""What a new decoder takes over from the encoder."""


class TranslationTrainer(DurableTrainer, Seq2SeqTrainer):
    """`Seq2SeqTrainer` that translates with one beam after every epoch, and with all beams at the end."""

    args: Seq2SeqTrainingArguments

    def evaluation_loop(self, *arguments: Any, **more: Any) -> EvalLoopOutput:
        """As `Trainer`; what fills up the last batches of several processes is dropped again."""
        self.gather_function = self.accelerator.gather_for_metrics
        return super().evaluation_loop(*arguments, **more)

    def _pad_tensors_to_max_len(self, tensor: Tensor, max_length: int) -> Tensor:
        """Nothing: `Trainer` pads batches where it joins them, and no further than it must."""
        del max_length
        return tensor

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **settings: Any,
    ) -> tuple[Any, Tensor | None, Tensor | None]:
        """As `Seq2SeqTrainer`, where a translation may be about twice as long as its source."""
        assert isinstance(self.model, MiniEncoderDecoderModel)
        beams = 1 if self.is_in_train else self.model.generation_config.num_beams
        settings |= {"num_beams": beams, "do_sample": False} | bounds(self.model, inputs["attention_mask"])
        found = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys=ignore_keys, **settings)
        return found[0], found[1], found[2]


class NewTranslationTrainer(TranslationTrainer):
    """For a model whose weights are all new: Muon moves its matrices, as in pre-training, and AdamW all else."""

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """See `MuonWithAdamW`."""
        chosen = self.model if model is None else model
        assert chosen is not None
        matrices, others = matrices_and_others(chosen)
        rate, decay = self.args.learning_rate, self.args.weight_decay
        self.optimizer = MuonWithAdamW(matrices, others, lr=rate, others_lr=EMBEDDINGS_RATE * rate, weight_decay=decay)
        return self.optimizer


class Translation(Task):
    """One text in another language."""

    auto_class = AutoModelForSeq2SeqLM
    trainer_class = TranslationTrainer
    training_arguments_class = Seq2SeqTrainingArguments
    examples_word = "pairs"
    usual_steps = 8_000  # a guess: a translator mostly starts from nothing (benchmarks/notebook.md)
    metrics = ("bleu", "lowercase_bleu", "chrf")
    best_metric = "bleu"

    def __init__(self, arguments: FinetuneArguments) -> None:
        super().__init__(arguments)
        self.decoder_start: Start | None = None
        self.examples: dict[str, Dataset] = {}
        """The pairs of each split that is measured."""
        self.translations: dict[str, list[str]] = {}
        """The newest translations of them."""
        self.model: MiniEncoderDecoderModel
        self.tokenizers: tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]
        """That of the source and that of the target, which may be one."""

    def read(self) -> TaskData:
        """See `read_pairs`."""
        arguments = self.arguments
        if arguments.dataset == BUILTIN:
            raise UserError("translation needs --dataset: two parallel text files, a table, or a data set on the Hub")
        scorers()  # that they are missing shows best before the work
        read = read_pairs(
            arguments.dataset,
            eval_dataset=arguments.eval_dataset,
            test_dataset=arguments.test_dataset,
            source_lang=arguments.source_lang,
            target_lang=arguments.target_lang,
        )
        self.languages = read.languages
        splits = {
            split: Dataset.from_dict(
                {"row": read.rows[split], "source": [pair[0] for pair in pairs], "target": [pair[1] for pair in pairs]}
            )
            for split, pairs in read.splits.items()
        }
        return TaskData(name=arguments.dataset, hub_id=read.hub_id, splits=splits, notes=read.notes)

    def describe(self, data: TaskData, examples: dict[str, Dataset]) -> list[str]:
        """How many pairs there are, and a short one of them."""
        counts = ", ".join(f"{len(rows):,} {split}" for split, rows in examples.items())
        first = min(
            examples["train"].select(range(min(100, len(examples["train"])))), key=lambda row: len(row["source"])
        )
        return [f"pairs: {counts}; such as {first['source'][:60]!r} -> {first['target'][:60]!r}"]

    # ---- model

    def config_fields(self, start: Start, data: TaskData) -> dict[str, Any]:
        """Nothing; checks that the encoder is one, and opens the decoder's tokenizer."""
        arguments = self.arguments
        name = arguments.model_name_or_path or arguments.model
        if not isinstance(start.config, MiniBertConfig):
            raise UserError(
                f"{name} is a {start.config.model_type}, but in translation a MiniBERT reads and a MiniGPT writes; "
                "give the MiniBERT, and the MiniGPT as --decoder_name_or_path"
            )
        if arguments.decoder_name_or_path is not None:
            self.decoder_start = from_checkpoint(arguments.decoder_name_or_path)
            if not isinstance(self.decoder_start.config, MiniGPTConfig):
                raise UserError(
                    f"decoder_name_or_path {arguments.decoder_name_or_path} is a {self.decoder_start.config.model_type}"
                    ", but a MiniGPT writes; give one, or leave it out for a new one"
                )
        return {}

    def positions(self, start: Start) -> int:
        """Those of the encoder or of the decoder, whichever has fewer."""
        decoder = (self.decoder_start or start).config
        return int(min(start.config.max_position_embeddings, decoder.max_position_embeddings))

    def build_model(self, start: Start, data: TaskData, **settings: Any) -> tuple[PreTrainedModel, set[str]]:
        """Both checkpoints with new cross-attention; or a new decoder of the encoder's shape.

        A new decoder with the encoder's tokenizer shares the encoder's embeddings, pre-trained or not.
        """
        encoder, _ = start.model(AutoModel, **settings, use_pooler=False)
        is_shared = self.decoder_start is None
        if self.decoder_start is None:
            assert isinstance(start.config, MiniBertConfig)  # as `config_fields` has checked
            decoder = _new(decoder_config(start.config, settings), settings)
            decoder.model.embed_tokens.weight.data.copy_(encoder.embed_tokens.weight)
            new = {f"decoder.{name}" for name, _ in decoder.named_parameters() if name != "model.embed_tokens.weight"}
        else:
            alone, _ = self.decoder_start.model(AutoModelForCausalLM, **settings)
            decoder = _new(MiniGPTConfig.from_dict(alone.config.to_dict() | {"add_cross_attention": True}), settings)
            new = {f"decoder.{name}" for name in decoder.load_state_dict(alone.state_dict(), strict=False).missing_keys}
        _, tokenizer = self.tokenizers
        begin, end = ends_of_text(tokenizer)
        config = MiniEncoderDecoderConfig(
            encoder=encoder.config,
            decoder=decoder.config,
            tie_word_embeddings=is_shared,
            label_smoothing=self.arguments.label_smoothing_factor,
            decoder_start_token_id=begin,
            eos_token_id=end,
            pad_token_id=tokenizer.pad_token_id,
        )
        config._attn_implementation = settings.get("attn_implementation")  # of the parts, too, which forgot theirs
        model = MiniEncoderDecoderModel(config, encoder, decoder)
        assert model.generation_config is not None
        model.generation_config.update(
            num_beams=self.arguments.num_beams,
            length_penalty=self.arguments.length_penalty,
            early_stopping=self.arguments.num_beams > 1,
            max_length=decoder.config.max_position_embeddings,
        )
        self.model = model
        if start.source is None and self.decoder_start is None:
            return model, set()  # all are new, and learn alike
        names = {name for name, _ in model.named_parameters()}
        if start.source is None:
            new |= {name for name in names if name.startswith("encoder.")}
        return model, (new | {name for name in names if name.startswith("enc_to_dec_proj")}) & names

    # ---- rows

    def encode(self, examples: Dataset, split: str, tokenizer: PreTrainedTokenizerFast, max_length: int) -> Dataset:
        """Sources as `[CLS] A [SEP]`, and targets as `B [SEP]`, which follows a `[CLS]`.

        Training pairs that are too long are left out, since a cut translation is a wrong one; longer sources of other
        splits are cut.
        """
        decoders = None if self.decoder_start is None else self.decoder_start.tokenizer
        is_shared = decoders is None or decoders.get_vocab() == tokenizer.get_vocab()
        self.tokenizers = (tokenizer, tokenizer if is_shared or decoders is None else decoders)
        source_tokenizer, target_tokenizer = self.tokenizers
        end = [ends_of_text(target_tokenizer)[1]]

        def rows(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
            sources = source_tokenizer(batch["source"], return_token_type_ids=False)
            targets = target_tokenizer(batch["target"], add_special_tokens=False)
            labels = [ids + end for ids in targets["input_ids"]]
            lengths = [max(map(len, both)) for both in zip(sources["input_ids"], labels, strict=True)]
            return {**sources, "labels": labels, "length": lengths}

        found = examples.map(rows, batched=True, remove_columns=examples.column_names, desc="tokenizing")
        too_long = sum(length > max_length for length in found["length"])
        if split == "train":
            found = found.filter(lambda length: length <= max_length, input_columns="length")
            if not len(found):
                raise UserError(f"all training pairs are longer than {max_length} tokens; raise --max_seq_length")
            if too_long:
                self.notes.append(f"{too_long:,} training pairs of more than {max_length} tokens are left out")
            return found
        if too_long:
            self.notes.append(f"{too_long:,} {split} pairs of more than {max_length} tokens are cut")
            sep = ends_of_text(source_tokenizer)[1]

            def cut(row: dict[str, Any]) -> dict[str, Any]:
                if len(row["input_ids"]) > max_length:
                    row["input_ids"] = row["input_ids"][: max_length - 1] + [sep]
                row["attention_mask"] = row["attention_mask"][:max_length]
                row["labels"] = row["labels"][:max_length]
                return row

            found = found.map(cut)
        self.examples[split] = examples
        return found

    def more_tokenizers(self) -> list[PreTrainedTokenizerFast]:
        """The target's, if it is not the source's."""
        source, target = self.tokenizers
        return [] if target is source else [target]

    def collator(self, tokenizer: PreTrainedTokenizerFast) -> DataCollatorForSeq2Seq:
        """Pads both sides to the longest of the batch."""
        return DataCollatorForSeq2Seq(tokenizer, model=self.model, label_pad_token_id=IGNORE_INDEX)

    # ---- training and evaluation

    def build_trainer(self, **arguments: Any) -> DurableTrainer:
        """With Muon, where all weights are new."""
        is_new = self.arguments.model is not None and self.decoder_start is None
        return (NewTranslationTrainer if is_new else TranslationTrainer)(**arguments)

    def trainer_settings(self) -> dict[str, Any]:
        """Translate in evaluations."""
        return {"predict_with_generate": True}

    def measure(self, prediction: EvalPrediction, split: str, *, compute_result: bool = True) -> dict[str, float]:
        """BLEU and chrF of the translations, against the targets as they were written."""
        _, tokenizer = self.tokenizers
        tokens = prediction.predictions
        tokens = np.where(tokens == IGNORE_INDEX, tokenizer.pad_token_id, tokens)
        self.translations[split] = [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]
        computed = TranslationMetrics(keep_in_memory=True).compute(
            predictions=self.translations[split], references=self.examples[split]["target"]
        )
        assert computed is not None
        return dict(computed)

    # ---- the result

    def predictions(self, split: str) -> Iterator[dict[str, Any]]:
        """Of each pair the place in its file, the source, the target and the translation."""
        for pair, translation in zip(self.examples[split], self.translations[split], strict=True):
            yield {**pair, "prediction": translation}

    def intervals(self, split: str) -> dict[str, tuple[float, float]]:
        """SacreBLEU's bootstrap."""
        return intervals(self.translations[split], self.examples[split]["target"])

    def save(self, folder: Path) -> None:
        """The target's tokenizer, if it is not the source's."""
        for target in self.more_tokenizers():
            save_tokenizer(target, folder / TARGET_TOKENIZER)

    def pictures(self, folder: Path, data: TaskData) -> dict[str, str]:
        """Where the decoder looks while it writes."""
        sources = list(self.examples["eval"]["source"])
        place = min(range(len(sources)), key=lambda index: abs(len(sources[index]) - PICTURED_CHARACTERS))
        draw_alignment(
            folder / "attention.png", self.model, *self.tokenizers, sources[place], self.translations["eval"][place]
        )
        return {"attention.png": "Cross-attention: how much each written token looks at each token of the source"}

    def report(self, results: dict[str, Any]) -> list[str]:
        """BLEU and chrF with what sacreBLEU calls their settings, and a translation."""
        metrics, dataset, signature = results["metrics"], results["dataset"], signatures()
        lines = [f"{dataset['eval_examples']:,} held-out pairs, {self.arguments.num_beams} beams:"]
        for split in ("eval", "test"):
            if f"{split}_bleu" in metrics:
                found = [metrics[f"{split}_{name}"] for name in self.metrics]
                lines.append(f"  {split} BLEU {found[0]:.2f}, lower-cased {found[1]:.2f}, chrF {found[2]:.2f}")
        lines += [f"  BLEU: {signature['bleu']}", f"  chrF: {signature['chrf']}"]
        pair = self.examples["eval"][len(self.examples["eval"]) // 2]
        written = self.translations["eval"][len(self.examples["eval"]) // 2]
        return [
            *lines,
            "",
            f"  source       {pair['source']}",
            f"  translation  {written}",
            f"  reference    {pair['target']}",
        ]

    def headline(self, results: dict[str, Any]) -> str:
        """BLEU on held-out pairs, with its settings."""
        bleu, count = results["metrics"]["eval_bleu"], results["dataset"]["eval_examples"]
        return (
            f"It translates {self.languages[0]} into {self.languages[1]}: BLEU {bleu:.1f} ({signatures()['bleu']}) on "
            f"{count:,} pairs that were held out."
        )

    def usage(self) -> Usage:
        """`generate`, between the tokenizers."""
        source, target = self.tokenizers
        decoder, extra = "tokenizer", ""
        if target is not source:
            decoder = TARGET_TOKENIZER
            where = f'{{model}}, subfolder="{TARGET_TOKENIZER}"{{options}}'
            extra = f"{decoder} = AutoTokenizer.from_pretrained({where})\n"
        sentence = min(self.examples["eval"]["source"], key=lambda text: abs(len(text) - PICTURED_CHARACTERS))[:80]
        return Usage(
            code="from transformers import AutoModelForSeq2SeqLM, AutoTokenizer\n\n"
            "tokenizer = AutoTokenizer.from_pretrained({model}{options})\n"
            f"{extra}"
            "model = AutoModelForSeq2SeqLM.from_pretrained({model}{options})\n"
            f'tokens = tokenizer({json.dumps(sentence, ensure_ascii=False)}, return_tensors="pt")\n'
            f"print({decoder}.decode(model.generate(**tokens)[0], skip_special_tokens=True))"
        )

    def limits(self, results: dict[str, Any]) -> list[str]:
        """That it translates sentences of one kind."""
        return [
            f"It translates {self.languages[0]} into {self.languages[1]}, one sentence at a time, and writes something "
            "fluent even where it has understood nothing."
        ]


def decoder_config(encoder: MiniBertConfig, settings: dict[str, Any]) -> MiniGPTConfig:
    """A decoder of the encoder's shape and architecture, which sees what the encoder makes."""
    make = MiniGPTConfig.modern if encoder.norm_type == "rms_norm" else MiniGPTConfig.classic
    shape = {name: getattr(encoder, name) for name in SHAPE}
    start = {"residual_init": encoder.residual_init} if encoder.norm_type == "rms_norm" else {}
    fields = {name: value for name, value in settings.items() if name != "attn_implementation"}
    return make(**shape | start | fields, add_cross_attention=True)


def _new(config: MiniGPTConfig, settings: dict[str, Any]) -> MiniGPTForCausalLM:
    """A decoder with new weights."""
    model: MiniGPTForCausalLM = AutoModelForCausalLM.from_config(
        config, attn_implementation=settings.get("attn_implementation")
    )
    return model
