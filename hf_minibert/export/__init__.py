"""Models and configurations in the forms that other software reads."""
