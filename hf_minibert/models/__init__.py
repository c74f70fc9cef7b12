"""The models. Every file here travels to the Hub with a checkpoint: flat, and importing siblings only."""
