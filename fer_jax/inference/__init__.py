"""Trained models, and the expressions they predict in pictures, videos and camera views."""
