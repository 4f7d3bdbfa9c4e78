"""One exact pass over a split, and what it says: scores, comparisons, files, the report."""
