"""Converts any release of FER-2013 to array records. Run it as `python -m data_prep`."""
