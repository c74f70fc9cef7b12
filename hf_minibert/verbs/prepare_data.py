"""Tokenise a corpus once, into a folder that pre-training reads.

Optional: `pretrain` does the same and keeps the tokens in the cache. Use it to prepare on another machine, or before
many processes start::

    hf-minibert prepare-data --corpus 'texts/*.jsonl.xz' --output_dir data/books
    hf-minibert pretrain --corpus data/books --output_dir runs/books
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from hf_minibert.assets import require_tokenizer
from hf_minibert.data.sources import DocumentUnit, require_corpus
from hf_minibert.errors import UserError


@dataclass(kw_only=True)
class Arguments:
    """Tokenise a corpus into a folder that `pretrain --corpus` takes."""

    output_dir: str
    """Folder for the tokens."""
    corpus: list[str] = field(default_factory=lambda: ["builtin"])
    """`builtin`, files, globs or folders (.txt .md .jsonl .parquet, also .gz .xz .zst), or a data set on the Hub, as
    NAME or NAME:CONFIG."""
    text_column: str = "text"
    """The column or key that holds the text."""
    document: DocumentUnit = "file"
    """What a document of a .txt or .md file is: the file (a long one is divided every 10,000 characters or so), what
    stands between blank lines, or a line."""
    streaming: bool = False
    """Read a Hub data set without downloading all of it first."""
    tokenizer: str | None = None
    """Folder or Hub name of the tokenizer. Default: the one of this package."""
    max_tokens: int | None = None
    """Stop after this many tokens."""

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens <= 0:
            raise UserError(f"max_tokens must be positive, got {self.max_tokens}")


def main(arguments: Arguments) -> int:
    """Tokenise the corpus into the folder, unless it is there already, and print its size."""
    require_corpus(arguments.corpus)
    if arguments.tokenizer is not None:
        require_tokenizer(arguments.tokenizer)
    from hf_minibert.data.corpus import open_corpus
    from hf_minibert.data.token_store import ABOUT_FILE, TokenStore, is_token_store, open_token_store
    from hf_minibert.output_folder import replaced_folder
    from hf_minibert.tokenization import OWN_TOKENIZER, load_tokenizer

    tokenizer = load_tokenizer(arguments.tokenizer or OWN_TOKENIZER)
    corpus = open_corpus(
        arguments.corpus,
        text_column=arguments.text_column,
        streaming=arguments.streaming,
        document=arguments.document,
    )
    if corpus.skipped:
        print(corpus.skipped, file=sys.stderr)
    folder = Path(arguments.output_dir)
    if is_token_store(folder):
        store = open_token_store(corpus, tokenizer, folder=folder, max_tokens=arguments.max_tokens)
    else:
        inputs = [*arguments.corpus, *([arguments.tokenizer] if arguments.tokenizer else [])]
        with replaced_folder(
            arguments.output_dir, "prepare_data", "a token store", inputs=inputs, last=ABOUT_FILE
        ) as staged:
            made = staged / "made"
            open_token_store(corpus, tokenizer, folder=made, max_tokens=arguments.max_tokens)
            for path in made.iterdir():
                path.rename(staged / path.name)
        store = TokenStore(folder)
    info = store.info
    print(f"{info.documents:,} documents, {info.tokens:,} tokens ({info.bytes / max(info.tokens, 1):.2f} bytes each)")
    if info.empty_documents:
        print(f"{info.empty_documents:,} empty ones left out")
    print(f"{len(store.train):,} to train on, {len(store.held_out):,} held out, in {store.folder}")
    return 0
