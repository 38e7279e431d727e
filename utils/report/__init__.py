"""Figures and pages about runs, from their record files."""
