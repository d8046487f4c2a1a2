"""One transaction, both shapes: what writes both columns of a pair, whatever the application wrote."""
