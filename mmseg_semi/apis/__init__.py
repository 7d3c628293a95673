"""Training and testing from the command line, and what is done to a config before."""
