"""Fine-tune a pre-trained MiniBERT or MiniGPT on labelled text.

On the builtin labels, in about a minute::

    python scripts/finetune.py --model_name_or_path runs/minibert --output_dir runs/packages

On a file with text and label columns, or a folder with train, dev and test files::

    python scripts/finetune.py --model_name_or_path runs/minibert --dataset reviews.jsonl \
        --label_names negative positive --output_dir runs/reviews
"""

from hf_minibert.command_line import run
from hf_minibert.finetuning.finetune import FinetuneArguments, finetune

if __name__ == "__main__":
    run(FinetuneArguments, finetune)
