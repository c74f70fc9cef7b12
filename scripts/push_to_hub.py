"""Publish a finished run on the Hugging Face Hub: the verb `hf-minibert push`.

python scripts/push_to_hub.py --model_name_or_path runs/minibert --repo_id me/minibert-mini --dry_run
"""

from hf_minibert.cli import main

if __name__ == "__main__":
    main("push")
