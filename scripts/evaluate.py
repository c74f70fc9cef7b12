"""Measure how good a model is, or several side by side: the verb `hf-minibert evaluate`.

python scripts/evaluate.py --suite blimp --dataset pairs.jsonl --model_name_or_path minibert-tiny --output_dir out
"""

from hf_minibert.cli import main

if __name__ == "__main__":
    main("evaluate")
