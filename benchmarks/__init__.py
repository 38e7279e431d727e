"""Measures the program from outside: its speed beside a plain loop, its first run on a GPU, and
what features hold."""
