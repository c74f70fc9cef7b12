"""Train a tokenizer on a corpus: the verb `hf-minibert train-tokenizer`.

python scripts/train_tokenizer.py --corpus builtin --vocab_size 8192 --output_dir runs/tokenizer
"""

from hf_minibert.cli import main

if __name__ == "__main__":
    main("train-tokenizer")
