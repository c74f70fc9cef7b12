"""Tokenise a corpus once, for many runs: the verb `hf-minibert prepare-data`.

python scripts/prepare_data.py --corpus 'texts/*.jsonl.xz' --output_dir data/books
accelerate launch scripts/pretrain.py --corpus data/books --output_dir runs/books
"""

from hf_minibert.cli import main

if __name__ == "__main__":
    main("prepare-data")
