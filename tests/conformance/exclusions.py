"""The tests of transformers that a class of ours does not pass, and why. One that passes or is gone is an error."""

EXCLUSIONS: dict[str, dict[str, str]] = {}
