"""What can be measured on a checkpoint before it is trusted: `hf-minibert check`."""
