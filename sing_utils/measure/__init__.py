"""Tables whose making a reader need not see; a notebook shows the equations, and calls these for the rest."""
