"""The verbs of the command line, one file each: its flags, and a `main` that calls the part that does the work."""
