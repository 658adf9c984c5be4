"""The command line. Read main (the verbs, and how each ends), then train, data, model, serving; the other two serve them."""
