"""Fine-tune a pre-trained MiniBERT or MiniGPT on labelled data: the verb `hf-minibert finetune`.

python scripts/finetune.py --model_name_or_path runs/minibert --output_dir runs/packages
python scripts/finetune.py --model_name_or_path runs/minibert --dataset reviews.jsonl \
        --label_names negative positive --output_dir runs/reviews
"""

from hf_minibert.cli import main

if __name__ == "__main__":
    main("finetune")
