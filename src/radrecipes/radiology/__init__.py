"""Chest X-ray reports: their sections, sentences and observations, and checks of generated reports."""
