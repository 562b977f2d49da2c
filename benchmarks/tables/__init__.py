"""Makes the tables and figures of pages from the record."""
