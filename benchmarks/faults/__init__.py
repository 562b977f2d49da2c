"""Whether a run that is killed again and again ends as if it had never been stopped."""
