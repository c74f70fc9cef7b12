"""From batches to a trained checkpoint."""
