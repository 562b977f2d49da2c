"""How fast training and prediction are, and how much memory they take."""
