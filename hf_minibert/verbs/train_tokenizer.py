"""Train a tokenizer on a corpus and write it as a folder that ``AutoTokenizer`` opens.

It runs in one process. On a laptop the builtin corpus takes less than a minute.
``training.json`` beside the tokenizer says what it was made from and how well it compresses; ``README.md`` is rendered
from it.
"""

import hashlib
import json
import shlex
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, field, fields
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from hf_minibert.data.sources import DocumentUnit, require_corpus
from hf_minibert.errors import UserError
from hf_minibert.markdown import plain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from hf_minibert.data.documents import Corpus

DOCUMENTS_PER_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train a WordPiece tokenizer."""

    output_dir: str
    """Folder to write. Of an earlier tokenizer there, what nobody has changed is replaced, and the rest kept."""
    corpus: list[str] = field(default_factory=lambda: ["builtin"])
    """What to train on: `builtin`, files, globs, folders or Hub names (also NAME:CONFIG). Each is a source with an
    equal share of `max_bytes`."""
    text_column: str = "text"
    """The column or key that holds the text."""
    document: DocumentUnit = "file"
    """What a document of a .txt or .md file is: the file (a long one is divided every 10,000 characters or so), what
    stands between blank lines, or a line. Of a document, a piece of the vocabulary counts eight times at most."""
    vocab_size: int = 8192
    """Entries of the vocabulary, special tokens and the 511 byte pieces included."""
    max_bytes: int = 100_000_000
    """Train on a sample of at most this many bytes, which bounds the memory. A smaller corpus is used whole."""
    lowercase: bool = False
    """Train a classic uncased BERT WordPiece (Devlin et al. 2019), which opens as BertTokenizer and is not lossless."""
    seed: int = 0
    """Decides the sample."""
    validation_corpus: list[str] = field(default_factory=list)
    """Held-out sources on which to measure bytes per token."""
    corpus_description: str | None = None
    """What the texts are, and under which licence, in words for the README. Default: the names of the sources."""

    def __post_init__(self) -> None:
        """Reject numbers that no corpus could satisfy."""
        for name in ("vocab_size", "max_bytes"):
            value = asdict(self)[name]
            if value <= 0:
                raise UserError(f"{name} must be positive, got {value}")
        if not self.corpus:
            raise UserError("corpus names no source; give `builtin`, a file, a glob, a folder or a Hub name")


def public_names(corpora: list["Corpus"]) -> list[str]:
    """Names of the sources for a README: of a local path, the last part; a number makes equal names differ."""
    from hf_minibert.data.corpus import FileCorpus

    names: list[str] = []
    for corpus in corpora:
        name = Path(corpus.name).resolve().name if isinstance(corpus, FileCorpus) else corpus.name
        alike = sum(other == name or other.startswith(f"{name} (") for other in names)
        names.append(f"{name} ({alike + 1})" if alike else name)
    return names


def read_texts(corpus: "Corpus") -> Iterator[str]:
    """The texts of a corpus; on a terminal, with a progress bar in bytes."""
    with tqdm(total=corpus.num_bytes, desc=corpus.name, unit="B", unit_scale=True, disable=None) as bar:
        for document in corpus:
            yield document.text
            bar.update(corpus.bytes_read - bar.n)


def measure_compression(tokenizer: "PreTrainedTokenizerFast", texts: Iterator[str]) -> dict[str, float]:
    """Bytes, tokens and bytes per token of held-out texts, read a batch at a time."""
    from hf_minibert.document_encoder import DocumentEncoder

    num_bytes = num_tokens = 0
    encode = DocumentEncoder(tokenizer)
    while batch := list(islice(texts, DOCUMENTS_PER_BATCH)):
        num_bytes += sum(len(text.encode()) for text in batch)
        num_tokens += int(encode(batch)[1].sum())
    return {"bytes": num_bytes, "tokens": num_tokens, "bytes_per_token": round(num_bytes / max(num_tokens, 1), 3)}


def render_readme(training: dict[str, Any]) -> str:
    """The folder's README, from what ``training.json`` holds."""
    arguments = training["arguments"]
    words: list[str] = []
    for setting in fields(Arguments):
        default = setting.default if setting.default_factory is MISSING else setting.default_factory()
        value = arguments.get(setting.name, default)
        if value != default:
            values = value if isinstance(value, list) else [] if value is True else [value]
            words += [f"--{setting.name}", *(str(item) for item in values)]
    if arguments["lowercase"]:
        kind = "classic uncased BERT WordPiece, which opens as `BertTokenizer`. Text is lowercased and unaccented"
    else:
        kind = "lossless byte-level WordPiece, cased: `decode(encode(text)) == text`, and `[UNK]` never occurs"
    lines = [
        f"# A WordPiece of {arguments['vocab_size']:,} entries",
        "",
        f"A {kind}.",
        "`AutoTokenizer.from_pretrained` opens this folder; `hf_minibert/tokenization.py` says how it works.",
        "",
        "This file and `training.json`, from which it is rendered, were written by",
        "",
        textwrap.indent("python scripts/train_tokenizer.py " + shlex.join(words), "    ", lambda _: True),
        "",
        textwrap.fill(
            f"Trained on {arguments['corpus_description'] or ', '.join(map(plain, arguments['corpus']))}. "
            f"Each source gave a sample of at most an equal share of {arguments['max_bytes'] / 1e6:g} MB, chosen by "
            f"seed {arguments['seed']}. The vocabulary records which pieces of words are frequent; no text is stored "
            "here. The same texts give the same vocabulary. Held-out text was used to measure only.",
            width=100,
        ),
        "",
        "| source | documents | MB | sampled MB | sha256 of the sample |",
        "|---|---:|---:|---:|---|",
    ]
    lines += [
        f"| {plain(source['name'])} | {source['documents']:,} | {source['bytes'] / 1e6:.1f} "
        f"| {source['sampled_bytes'] / 1e6:.1f} | `{source['sampled_sha256'][:16]}` |"
        for source in training["sources"]
    ]
    if training["validation"]:
        lines += ["", "| held-out text | bytes | tokens | bytes per token |", "|---|---:|---:|---:|"]
    lines += [
        f"| {plain(name)} | {measured['bytes']:,} | {measured['tokens']:,} | {measured['bytes_per_token']:.2f} |"
        for name, measured in training["validation"].items()
    ]
    return "\n".join([*lines, "", f"Made with tokenizers {training['tokenizers_version']}.", ""])


def main(arguments: Arguments) -> int:
    """Sample the sources, train, measure, write the folder."""
    require_corpus([*arguments.corpus, *arguments.validation_corpus])
    from hf_minibert.data.corpus import open_each
    from hf_minibert.output_folder import replaced_folder
    from hf_minibert.tokenization import sample_texts, save_tokenizer, train_wordpiece

    with replaced_folder(
        arguments.output_dir,
        "train_tokenizer",
        "a tokenizer",
        inputs=[*arguments.corpus, *arguments.validation_corpus],
        last="tokenizer_config.json",
    ) as folder:
        named = [*arguments.corpus, *arguments.validation_corpus]
        opened = open_each(named, text_column=arguments.text_column, document=arguments.document)
        corpora, held_out = opened[: len(arguments.corpus)], opened[len(arguments.corpus) :]
        names, held_out_names = public_names(corpora), public_names(held_out)
        sources, texts = [], list[str]()
        for corpus, name in zip(corpora, names, strict=True):
            if corpus.skipped:
                print(f"{corpus.name}: {corpus.skipped}", file=sys.stderr)
            share = max(1, arguments.max_bytes // len(corpora))
            sample = sample_texts(read_texts(corpus), max_bytes=share, seed=arguments.seed)
            if sample.num_bytes < sample.seen_bytes:
                size = f"{sample.num_bytes / 1e6:.1f} of {sample.seen_bytes / 1e6:.1f} MB"
                print(f"{corpus.name}: a sample of {size}, by --max_bytes {arguments.max_bytes}", file=sys.stderr)
            digest = hashlib.sha256("".join(sample.texts).encode()).hexdigest()
            sources.append(
                {
                    "name": name,
                    "documents": sample.seen_documents,
                    "bytes": sample.seen_bytes,
                    "sampled_bytes": sample.num_bytes,
                    "sampled_sha256": digest,
                }
            )
            texts += sample.texts
        tokenizer = train_wordpiece(
            texts,
            vocab_size=arguments.vocab_size,
            lowercase=arguments.lowercase,
            show_progress=sys.stderr.isatty(),
        )
        training = {
            "arguments": asdict(arguments)
            | {
                "output_dir": Path(arguments.output_dir).resolve().name,
                "corpus": names,
                "validation_corpus": held_out_names,
            },
            "sources": sources,
            "validation": {
                name: measure_compression(tokenizer, read_texts(corpus))
                for corpus, name in zip(held_out, held_out_names, strict=True)
            },
            "tokenizers_version": version("tokenizers"),
        }
        save_tokenizer(tokenizer, folder)
        (folder / "training.json").write_text(json.dumps(training, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(render_readme(training), encoding="utf-8")
    print(f"wrote a tokenizer of {len(tokenizer)} entries to {arguments.output_dir}")
    return 0
