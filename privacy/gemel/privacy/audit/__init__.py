"""Attacks on ourselves: checks that try to break what the privacy room promises, and say what they measured."""
