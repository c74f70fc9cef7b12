"""Compute one step of a run again and show its rows: the verb `hf-minibert replay`.

python scripts/replay.py --output_dir runs/minibert --step 1234
"""

from hf_minibert.cli import main

if __name__ == "__main__":
    main("replay")
