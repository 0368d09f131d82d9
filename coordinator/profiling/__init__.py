"""Profiles of steps: taken from what threads note of their time, and worked out."""
