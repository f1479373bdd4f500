"""`python -m sing_utils.cli` is `sing`."""

from sing_utils.cli import main

main()
