"""`python -m hf_minibert VERB ...`, also under `accelerate launch -m` and `torchrun -m`."""

from hf_minibert.cli import main

if __name__ == "__main__":
    main()
