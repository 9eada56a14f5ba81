"""Chest X-ray reports: their sections, sentences and observations, and how a written report is judged."""
