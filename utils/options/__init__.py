"""The command line, checked without importing torch."""
