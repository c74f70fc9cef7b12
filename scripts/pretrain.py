# /// script
# requires-python = ">=3.11"
# dependencies = ["hf_minibert"]
# [tool.uv.sources]
# hf_minibert = { path = "..", editable = true }
# ///
"""Pre-train a MiniBERT or MiniGPT: the verb `hf-minibert pretrain`.

accelerate launch scripts/pretrain.py --model minibert-mini --corpus builtin --output_dir runs/minibert --budget 3m
torchrun --nproc_per_node 2 scripts/pretrain.py --corpus texts --output_dir runs/two --max_tokens 10000000
accelerate launch scripts/pretrain.py --output_dir runs/minibert --resume
"""

from hf_minibert.cli import main

if __name__ == "__main__":
    main("pretrain")
