"""Measures the program from outside: its speed beside a plain loop, and its first run on a GPU."""
