"""A library run on many processes or machines, with Ray (the optional package `ray`)."""
