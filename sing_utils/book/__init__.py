"""Build the book's pages from a run, and serve them beside JupyterLab."""
