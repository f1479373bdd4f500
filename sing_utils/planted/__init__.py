"""A generated world whose null-space semantics are known: scenes, networks, heads, truth.

It plugs in by name (`planted:`); nothing below imports it.
"""
