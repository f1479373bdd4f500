"""The explorers: numbers that a page computes from, widgets, and their scripts and style in `pages/`."""
