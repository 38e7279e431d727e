"""Figures and pages, drawn from record files alone."""
