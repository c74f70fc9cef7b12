"""From text to batches: corpus -> token store -> objective -> loader."""
