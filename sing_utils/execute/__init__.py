"""Run the notebooks, note what made their numbers, compare two runs, check and fetch what a profile needs.

Nothing here changes a number, so no notebook runs again when it changes.
"""
