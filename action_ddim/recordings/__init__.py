"""Real recordings to data; read in this order: trace, formats (a reader each), cleaning, resample, windows, split, convert."""
