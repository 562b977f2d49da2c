"""What to train. `base.py` documents every knob; each other file states only what differs."""
