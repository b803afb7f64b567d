"""The built-in data sets: where they come from, and readers that trust no file."""
