"""Classifiers and vision-language encoders by name, and which of them may judge which.

A network comes in, features, a head W f + b and its labels come out; knows no folder of pictures.
"""
