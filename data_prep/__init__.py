"""Turns FER-2013, in any of its releases, into array records. Run as `python -m data_prep`."""
