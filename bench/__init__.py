"""What the connector costs, against the least that could do the same work (README.md)."""
