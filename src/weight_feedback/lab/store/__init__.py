"""Results on disk: one checksummed file a finished trial, which never changes."""
