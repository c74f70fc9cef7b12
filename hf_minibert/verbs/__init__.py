"""One file for each verb of the command line: its flags, and a `main` that calls the part which does the work."""
