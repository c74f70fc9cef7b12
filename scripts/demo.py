"""Show a model in a browser tab: the verb `hf-minibert demo`.

python scripts/demo.py --model_name_or_path runs/minibert --static page
"""

from hf_minibert.cli import main

if __name__ == "__main__":
    main("demo")
