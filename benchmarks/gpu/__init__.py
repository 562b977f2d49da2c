"""Everything that needs a GPU for a few minutes, most wanted first."""
