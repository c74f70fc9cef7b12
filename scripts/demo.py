"""Try a checkpoint on a page in the browser: the verb `hf-minibert demo`.

python scripts/demo.py --model_name_or_path minibert-tiny
python scripts/demo.py --model_name_or_path runs/minibert --space space
python scripts/demo.py --model_name_or_path runs/minibert --static page
"""

from hf_minibert.cli import main

if __name__ == "__main__":
    main("demo")
