"""Regions as processes, under load and faults, judged by what their clients were told."""
