"""Reads array records and makes batches of them."""
