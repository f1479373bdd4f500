"""What a number is worth: intervals, random subspaces, other translators, translators of half the photos.

Stands on the method alone.
"""

SOFTMAX = "this book, and what softmax ignores"  # one of `controls.rank_rules`, which pages name
