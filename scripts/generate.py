"""Continue a text with a pre-trained MiniGPT: the verb `hf-minibert generate`.

python scripts/generate.py --model_name_or_path runs/minigpt --prompt "The function returns"
"""

from hf_minibert.cli import main

if __name__ == "__main__":
    main("generate")
