"""What a sweep costs before it is run."""
