"""The command line. It is checked without importing torch."""
