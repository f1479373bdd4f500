"""Profiles, and one run as its notebooks see it: photos, heads, translators, tables."""
