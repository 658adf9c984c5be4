"""How a model is trained. Read config, loop, loss, run.

Then what a run is made of: loader, optimizer, ema, tally, validation, monitoring, early_stopping, tracking; and how it is kept
and ends: run_folder, checkpoint, progress, saving, resume, interruption, ending.
"""
