"""From a trained checkpoint to something that others can read, run and download."""
