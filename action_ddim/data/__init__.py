"""Actions on disk. Read action_file (one file), dataset (a folder of them), check_record (what is known to be valid), features
(what a sequence is like), writer (a folder written), inspection (what a folder holds), hub_dataset (the Hub's form).
"""
