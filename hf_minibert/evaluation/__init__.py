"""How good a model is: held-out loss, samples, and metrics that need no network."""
