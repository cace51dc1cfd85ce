"""The loops between intake and settlement. They know ports only."""
