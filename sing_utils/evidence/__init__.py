"""What a number is worth: intervals, random subspaces, other translators, translators of half the photos.

Stands on the method alone.
"""
