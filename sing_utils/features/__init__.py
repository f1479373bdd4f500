"""From pictures and a model to a feature store: batches, workers, shards, keys; and translators from stores.

What is stored survives kills, and is found again by what it was made from.
"""
