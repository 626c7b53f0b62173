"""Entry scripts that reproduce the paper, and what they share."""
