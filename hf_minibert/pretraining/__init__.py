"""From batches to a pre-trained checkpoint."""
