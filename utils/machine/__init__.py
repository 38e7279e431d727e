"""What the program runs on: devices, cores, processes and signals."""
