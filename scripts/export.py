"""Convert a checkpoint to what other tools open: the verb `hf-minibert export`.

python scripts/export.py --model_name_or_path runs/minibert --output_dir exported
python scripts/export.py --model_name_or_path google-bert/bert-base-uncased --to minibert --output_dir runs/bert
"""

from hf_minibert.cli import main

if __name__ == "__main__":
    main("export")
