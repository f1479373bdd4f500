"""The paper's method: head and null space, translator, angles and scores, steering.

Arrays in, arrays out; nothing here knows models, pictures or runs.
"""
