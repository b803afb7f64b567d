"""What a trial trains: the networks that this began with, and the intrinsic dimension."""
