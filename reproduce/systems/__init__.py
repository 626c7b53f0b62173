"""What is fitted and scored: the interface, and every system behind it."""
