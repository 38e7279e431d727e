"""Measures the program from outside: speed beside a plain loop, and what a GPU is to be asked."""
