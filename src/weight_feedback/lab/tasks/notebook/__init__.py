"""The networks that this began with, what they hear, and how they are trained."""
