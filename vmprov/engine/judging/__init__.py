"""Watching machines while they come up, until there is a verdict, and for as long as they run."""
