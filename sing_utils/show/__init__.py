"""Frames in, words and figures out: charts, galleries, findings, openings. Needs no torch."""
