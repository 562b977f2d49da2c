"""From array records to batches."""
