"""Disk, signals, processes and memory of one machine."""
