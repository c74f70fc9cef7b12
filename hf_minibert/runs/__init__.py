"""What pre-training and fine-tuning share: hardware, curves and results."""
