"""Array records become batches."""
