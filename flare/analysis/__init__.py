"""From the runs' files to tables, claims and comparisons."""
