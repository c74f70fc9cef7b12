"""Measure whether a checkpoint keeps what a model of its kind promises: the verb `hf-minibert check`.

python scripts/check.py runs/minibert
"""

from hf_minibert.cli import main

if __name__ == "__main__":
    main("check")
