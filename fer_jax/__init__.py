"""Trains, evaluates and explains facial-expression classifiers on FER-2013."""
