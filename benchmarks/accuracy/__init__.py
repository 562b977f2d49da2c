"""How well networks do: the published systems, and one option of a recipe at a time."""
