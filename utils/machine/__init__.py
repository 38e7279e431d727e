"""Devices, processes, signals: what the program runs on."""
