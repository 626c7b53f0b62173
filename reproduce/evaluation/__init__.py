"""From finished runs to numbers: statistics, tables, published numbers, verification."""
