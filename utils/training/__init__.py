"""Stages, phases, and the loop that runs them."""
