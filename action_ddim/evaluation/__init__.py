"""How good a model is. Read inference (many sequences, seeded by index), metrics, realism, evaluate (all of it together); then
what shows it: tables, page, report, data_report, model_card, dataset_card, plots, path_plots.
"""
