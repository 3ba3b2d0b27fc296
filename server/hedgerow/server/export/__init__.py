"""`hedgerow export`: the model of a run as a file for other programs."""
