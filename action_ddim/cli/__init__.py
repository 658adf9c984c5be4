"""The command line. Read main (the verbs, and how each ends), then train, data, model; inputs and outputs are theirs."""
