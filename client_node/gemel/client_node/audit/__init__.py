"""Attacks on a node of our own making: a throwaway home with made-up patients, asked by an unfriendly coordinator."""
