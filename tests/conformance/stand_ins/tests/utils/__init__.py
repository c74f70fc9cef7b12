"""Stand-ins for the modules of this package that the source distribution lacks."""
