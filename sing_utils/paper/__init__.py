"""What the paper says, as data, and how a run's findings are judged beside it. Needs no torch."""
