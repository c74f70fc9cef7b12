"""A page on which people try a checkpoint."""
