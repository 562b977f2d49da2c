"""What a data set hides: copies, pictures without a face, labels that are probably wrong."""
