"""How a model is trained. Read config, loop, loss, run; then what a run is made of: loader, ema, tally, validation, monitoring,
early_stopping, tracking; then how it is kept and how it ends: run_folder, checkpoint, saving, resume, interruption, ending.
"""
